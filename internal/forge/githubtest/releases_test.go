package githubtest_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/runner"
)

// TestRunnerReleases: they are read as GitHub describes them, by any
// installation; a server without them says so.
func TestRunnerReleases(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.app.RunnerReleases(w.ctx)
	code(t, err, nimbus.CodeNotFound, "")
	at := time.Now().UTC().Truncate(time.Second)
	var want []nimbus.RunnerRelease
	for i := range 25 {
		want = append(want, nimbus.RunnerRelease{Version: "2.3" + string(rune('a'+i)), PublishedAt: at.Add(-time.Duration(i) * time.Hour)})
	}
	w.SetRunnerReleases(want...)
	got, err := w.app.RunnerReleases(w.ctx)
	if diff := cmp.Diff(want[:20], got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	w.Suspend(true)
	_, err = w.app.RunnerReleases(w.ctx)
	code(t, err, nimbus.CodeForbidden, "installed")
}

// TestOldRunnersAreRefused: a month after a newer one came out, with the words
// and the exit code of GitHub's runner.
func TestOldRunnersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.SetRunnerReleases(nimbus.RunnerRelease{Version: "2.338.0", PublishedAt: time.Now()})
	run := func(version string) (exit int, says string) {
		job := w.push(project(oneJob)).Jobs[0]
		_, jit := w.mint(job, "r"+nimbus.NewID(nimbus.PrefixAttempt, time.Now()))
		var said bytes.Buffer
		exit = runner.Run(w.ctx, runner.Config{Version: version, JITConfig: jit, Dir: t.TempDir(), Stdout: &said, Stderr: &said, RetryFor: time.Second})
		return exit, said.String()
	}
	if exit, says := run("2.337.0"); exit != 0 {
		t.Errorf("a runner that is behind by a day ends with %d: %s", exit, says)
	}
	w.clock.move(nimbus.RunnerGrace + time.Minute)
	exit, says := run("2.337.0")
	if exit != runner.ExitDeprecated || !strings.Contains(says, "Runner version v2.337.0 is deprecated and cannot receive messages.") ||
		!strings.Contains(says, "Runner listener exit with deprecated version exit code: 7.") {
		t.Errorf("one that is behind by a month ends with %d: %s", exit, says)
	}
	for _, version := range []string{"2.338.0", ""} { // the stand-in is no release of GitHub's
		if exit, says := run(version); exit != 0 {
			t.Errorf("version %q ends with %d: %s", version, exit, says)
		}
	}
}
