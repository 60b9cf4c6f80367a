package agent

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/images/docker"
	"github.com/nimbus-ci/nimbus/internal/logs/wal"
)

// TestWhoWantsDockerIsToldHow: in the words of GitHub's runner and of shells, once,
// and not where there is docker.
func TestWhoWantsDockerIsToldHow(t *testing.T) {
	t.Parallel()
	if dockerImage != docker.Name {
		t.Errorf("the image is called %s", docker.Name)
	}
	for text, c := range map[string]struct {
		image string
		told  bool
	}{
		"##[error]docker: command not found":                   {"runner", true},
		"/tmp/step-2.sh: line 1: docker: command not found":    {"node:22", true},
		"sh: 1: docker: not found":                             {"runner", true},
		"docker: not found in the list of what may be missing": {"runner", false},
		"docker: Error response from daemon":                   {"runner", false},
		"bash: docker: command not found":                      {docker.Name, false},
	} {
		w, err := wal.Open(filepath.Join(t.TempDir(), "wal"), walLimit)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		a := &attempt{wal: w, log: slog.New(slog.DiscardHandler), assign: nimbus.Assignment{Class: nimbus.Class{Image: c.image}}}
		f := &follower{t: a}
		for range 3 {
			f.notice([]nimbus.Line{{Text: "before"}, {Text: text}})
		}
		f.sayDocker(t.Context())
		lines, err := w.Read(1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if told := len(lines) == 1 && strings.Contains(lines[0].Text, "no docker in image "+c.image) && strings.Contains(lines[0].Text, "image:docker"); told != c.told {
			t.Errorf("%q in %s: %v", text, c.image, lines)
		}
	}
}
