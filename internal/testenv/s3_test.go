package testenv_test

import (
	"net/http"
	"os"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestS3IsStoppedAndStarted(t *testing.T) {
	t.Parallel()
	s, other := testenv.S3(t), testenv.S3(t)
	if s.URL == other.URL || s.Dir == other.Dir {
		t.Errorf("two are one: %s in %s", s.URL, s.Dir)
	}
	if info, err := os.Stat(s.Dir); err != nil || !info.IsDir() {
		t.Errorf("its bucket: %v", err)
	}
	answers := func() bool {
		answer, err := http.Get(s.URL + "/" + s.Bucket)
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusForbidden // who has no keys
	}
	if !answers() {
		t.Error("it does not answer")
	}
	s.Stop()
	if answers() {
		t.Error("it answers after it was stopped")
	}
	s.Start()
	if !answers() {
		t.Error("it does not answer after it was started again")
	}
}
