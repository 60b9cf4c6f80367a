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
	const away = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
	for text, c := range map[string]struct {
		image, executor string
		result          nimbus.Result
		told            string
	}{
		"##[error]docker: command not found":                      {"runner", "", nimbus.ResultFailure, "daemon in image runner"},
		"/tmp/step-2.sh: line 1: docker: command not found":       {"node:22", "", nimbus.ResultFailure, "daemon in image node:22"},
		"sh: 1: docker: not found":                                {"runner", "", nimbus.ResultFailure, "daemon in image runner"},
		"/bin/sh: docker: not found":                              {"runner", "", nimbus.ResultFailure, "daemon in image runner"},
		away:                                                      {"tools", "", nimbus.ResultFailure, "daemon in image tools"},
		"ERROR: " + away:                                          {docker.Name, nimbus.ExecutorDocker, nimbus.ResultFailure, "a container has no docker daemon"},
		"bash: line 7: docker: command not found":                 {"runner", "", nimbus.ResultSuccess, ""},
		"bash: line 8: docker: command not found":                 {"runner", "", nimbus.ResultCancelled, ""},
		"in the list of what may be missing is docker: not found": {"runner", "", nimbus.ResultFailure, ""},
		"docker: not found in the list of what may be missing":    {"runner", "", nimbus.ResultFailure, ""},
		"docker: Error response from daemon":                      {"runner", "", nimbus.ResultFailure, ""},
		"bash: docker: command not found":                         {docker.Name, "", nimbus.ResultFailure, ""},
		"again: " + away:                                          {docker.Name, nimbus.ExecutorMicroVM, nimbus.ResultFailure, ""},
	} {
		w, err := wal.Open(filepath.Join(t.TempDir(), "wal"), walLimit)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		a := &attempt{wal: w, seal: testSeal(), log: slog.New(slog.DiscardHandler), assign: nimbus.Assignment{Class: nimbus.Class{Image: c.image, Executor: c.executor}}}
		f := &follower{t: a}
		for range 3 {
			f.notice([]nimbus.Line{{Text: "before"}, {Text: text}})
		}
		f.sayDocker(t.Context(), c.result)
		lines, err := w.Read(1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if told := len(lines) == 1 && strings.Contains(lines[0].Text, c.told) && strings.Contains(lines[0].Text, "image:docker"); told != (c.told != "") {
			t.Errorf("%q in %s: %v", text, c.image, lines)
		}
	}
}
