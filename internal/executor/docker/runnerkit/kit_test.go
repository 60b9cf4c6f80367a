package runnerkit_test

import (
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit"
	"github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit/runnerkittest"
)

func TestLay(t *testing.T) {
	store := runnerkittest.Image(t, "")
	img, err := store.Open(nimbus.DefaultImage)
	if err != nil {
		t.Fatal(err)
	}
	s := &runnerkit.Store{Dir: t.TempDir()}
	k, err := s.Get(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(k.Binds())
}
