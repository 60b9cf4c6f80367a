package host_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/examples"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/programs"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// workflow is a tree with one workflow of one job on the local executor.
func workflow(script string) fs.FS {
	return fstest.MapFS{".github/workflows/ci.yml": &fstest.MapFile{Data: []byte(`
on: push
jobs:
  work:
    runs-on: [nimbus, local]
    steps:
      - name: Work
        run: |
          ` + strings.ReplaceAll(script, "\n", "\n          ") + "\n")}}
}

// onlyJob waits until the control plane has one job and returns it.
func (p *plane) onlyJob(t *testing.T) nimbus.Job {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		page, err := p.scheduler.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{})
		must(t, err)
		if len(page.Jobs) == 1 {
			return page.Jobs[0]
		}
	}
	t.Fatal("no job arrived")
	return nimbus.Job{}
}

func (p *plane) push(t *testing.T, tree fs.FS) int64 {
	t.Helper()
	runs, err := p.github.Push(t.Context(), "acme/hello", tree)
	must(t, err)
	if len(runs) != 1 {
		t.Fatalf("%d runs", len(runs))
	}
	return runs[0]
}

func (p *plane) violations(t *testing.T) {
	t.Helper()
	for _, v := range p.github.Violations() {
		t.Errorf("GitHub's description is violated: %s", v)
	}
}

// TestTheExampleAsGitHubSendsIt runs the demo's repository through webhook,
// queue, runner registration and the runner, on the local executor.
func TestTheExampleAsGitHubSendsIt(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	p, dir := startPlane(t, githubtest.Config{}), t.TempDir()
	startHost(t, p, dir)
	hello, err := fs.Sub(examples.Hello, "hello")
	must(t, err)
	var expected map[string]string
	raw, err := fs.ReadFile(hello, "expected.json")
	must(t, err)
	must(t, json.Unmarshal(raw, &expected))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	_, err = p.github.WaitRun(ctx, p.push(t, hello))
	must(t, err)
	must(t, p.github.Flush(ctx))
	page, err := p.scheduler.Jobs(ctx, nimbus.DefaultOrgID, scheduler.JobFilter{})
	must(t, err)
	for _, j := range page.Jobs {
		j = p.await(t, j.ID, "finished", over)
		if want := expected[j.Name]; string(j.Result) != want {
			t.Errorf("job %q ended with %s, want %s: %+v\n%s", j.Name, j.Result, want, j.Reason, p.log(t, j))
		}
		delete(expected, j.Name)
		if j.ExitCode == nil || (*j.ExitCode == 0) != (j.Result == nimbus.ResultSuccess) {
			t.Errorf("job %q: exit code %v with %s", j.Name, j.ExitCode, j.Result)
		}
		if strings.Contains(p.log(t, j), "jitconfig") {
			t.Errorf("job %q: the runner's registration is in the log", j.Name)
		}
	}
	if len(expected) > 0 {
		t.Errorf("these jobs never came: %v", expected)
	}
	if left := p.github.Runners(); len(left) > 0 {
		t.Errorf("runners left at GitHub: %+v", left)
	}
	p.violations(t)
	empty(t, dir)
}

// beats reads the moments at which a job said that it lives.
func beats(t *testing.T, path string) (out []time.Time) {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	for _, field := range strings.Fields(string(raw)) {
		ns, err := strconv.ParseInt(field, 10, 64)
		must(t, err)
		out = append(out, time.Unix(0, ns))
	}
	return out
}

// TestHostLostAfterInProgress takes the host away under a running job: its
// sandbox is dead before anybody is told that the job is lost, and it is not
// run again.
func TestHostLostAfterInProgress(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	p, dir, file := startPlane(t, githubtest.Config{}), t.TempDir(), filepath.Join(t.TempDir(), "beats")
	stop := startHost(t, p, dir)
	p.push(t, workflow(fmt.Sprintf("echo begin\nwhile true; do date +%%s%%N >> %s; sleep 0.1; done", file)))
	j := p.onlyJob(t)
	p.await(t, j.ID, "running", func(j nimbus.Job) bool { return j.State == nimbus.StateRunning && j.LogLines > 0 })
	stop()
	j = p.await(t, j.ID, "lost", func(j nimbus.Job) bool { return j.State == nimbus.StateFinished })
	if j.Result != nimbus.ResultLost {
		t.Fatalf("ended with %s, %+v", j.Result, j.Reason)
	}
	all := beats(t, file)
	if last := all[len(all)-1]; !last.Before(j.Timeline.FinishedAt) {
		t.Errorf("the job lived at %s, it was given up at %s", last, j.Timeline.FinishedAt)
	}
	// The next agent finds nothing to go on with, and cleans up.
	startHost(t, p, dir)
	empty(t, dir)
	if again := beats(t, file); len(again) != len(all) {
		t.Errorf("it ran again: %d beats, then %d", len(all), len(again))
	}
	if j := p.onlyJob(t); j.AttemptCount != 1 {
		t.Errorf("%d attempts", j.AttemptCount)
	}
	p.violations(t)
}

// TestHostLostBeforeInProgress takes the host away while its runner has not
// got the job yet: another host gets it, with another runner.
func TestHostLostBeforeInProgress(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	p, file := startPlane(t, githubtest.Config{}), filepath.Join(t.TempDir(), "beats")
	// The first host's runner never asks for the job.
	sleepy := fstest.MapFS{"nimbus-runner": &fstest.MapFile{Data: []byte("#!/bin/sh\nsleep 1000\n"), Mode: 0o755}}
	stop := startHost(t, p, t.TempDir(), programs.Finder{Embedded: sleepy, Dir: t.TempDir()})
	p.push(t, workflow(fmt.Sprintf("date +%%s%%N >> %s", file)))
	j := p.onlyJob(t)
	first := p.await(t, j.ID, "registered", func(j nimbus.Job) bool {
		return j.State == nimbus.StateAccepted && len(p.github.Runners()) == 1
	})
	stop()
	p.await(t, j.ID, "queued again", func(j nimbus.Job) bool { return j.State == nimbus.StateQueued || j.State == nimbus.StatePending })
	startHost(t, p, t.TempDir())
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultSuccess || j.AttemptID == first.AttemptID {
		t.Errorf("ended with %s in attempt %s (the first was %s): %+v", j.Result, j.AttemptID, first.AttemptID, j.Reason)
	}
	if n := len(beats(t, file)); n != 1 {
		t.Errorf("it ran %d times", n)
	}
	p.violations(t)
}

// TestCancelledAtGitHub stops the sandbox soon after GitHub says so.
func TestCancelledAtGitHub(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	p, dir := startPlane(t, githubtest.Config{}), t.TempDir()
	startHost(t, p, dir)
	run := p.push(t, workflow("echo begin\nsleep 1000"))
	j := p.onlyJob(t)
	p.await(t, j.ID, "running", func(j nimbus.Job) bool { return j.State == nimbus.StateRunning && j.LogLines > 0 })
	must(t, p.github.CancelRun(run))
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultCancelled {
		t.Errorf("ended with %s, %+v", j.Result, j.Reason)
	}
	empty(t, dir)
	p.violations(t)
}
