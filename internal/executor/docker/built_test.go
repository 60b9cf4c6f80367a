package docker_test

import (
	"context"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestBuiltImage has a job that names no image: it gets that of microVMs, which
// is imported once.
func TestBuiltImage(t *testing.T) {
	testenv.Require(t, "sqfs2tar")
	cfg, _ := config(t)
	cfg.Built = imagetest.Runner(t)
	cfg.Catalog.Aliases = nil
	e := create(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	for _, imported := range []bool{true, false} {
		sp := spec(t)
		var told []string
		sp.Tell = func(what string) { told = append(told, what) }
		s := sandbox(ctx, t, e, sp)
		out, exit := executortest.Do(ctx, t, s, ". /etc/os-release; echo $ID; git --version | cut -d' ' -f1,2")
		if out != "debian\ngit version\n" || exit.GetCode() != 0 {
			t.Errorf("got %q, %v", out, exit)
		}
		if got := strings.Contains(strings.Join(told, "\n"), "importing image "+nimbus.DefaultImage); got != imported {
			t.Errorf("it was told %q", told)
		}
	}
}
