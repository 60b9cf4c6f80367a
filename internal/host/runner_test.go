package host_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/programs"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// ownWords are those of the runner itself, which come beside its steps.
var ownWords = regexp.MustCompile(`^[0-9-]{10} [0-9:]{8}Z: |^Runner listener exit with |^Exiting runner\.\.\.$`)

// steps is the log of a job by its steps, in the order shown; the first line of
// each is the step's name.
func (p *plane) steps(t *testing.T, j nimbus.Job) (out [][]string) {
	t.Helper()
	lines, err := p.logs.Read(t.Context(), nimbus.LogKey{OrgID: j.OrgID, AttemptID: j.AttemptID}, 1, 10_000)
	must(t, err)
	for _, l := range lines {
		if l.Step == 0 || ownWords.MatchString(l.Text) {
			continue
		}
		if l.Stream == nimbus.StreamStep {
			out = append(out, nil)
		}
		if int(l.Step) != len(out) {
			t.Fatalf("line %d (%q) is of step %d, after %d", l.Seq, l.Text, l.Step, len(out))
		}
		out[len(out)-1] = append(out[len(out)-1], l.Text)
	}
	return out
}

// TestStepsOfAGitHubJobWhileItRuns: the lines of a step are read by people
// while it still runs, under its name, and each is there once in the end.
func TestStepsOfAGitHubJobWhileItRuns(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	p, dir, file := startPlane(t, githubtest.Config{}), t.TempDir(), filepath.Join(t.TempDir(), "go")
	startHost(t, p, dir)
	p.push(t, fstest.MapFS{".github/workflows/ci.yml": &fstest.MapFile{Data: fmt.Appendf(nil, `
on: push
jobs:
  work:
    runs-on: [nimbus, local]
    steps:
      - name: Compile
        run: |
          echo "::add-mask::hunter2secret"
          echo "compiled with hunter2secret"
          exit 4
        continue-on-error: true
      - name: Never
        if: failure()
        run: echo never
      - name: Test
        run: |
          echo waiting
          until test -e %s; do sleep 0.05; done
          for i in $(seq 1 2000); do echo "line $i"; done
          printf 'last words'
`, file)}})
	j := p.onlyJob(t)
	j = p.await(t, j.ID, "waiting in its second step", func(j nimbus.Job) bool {
		return j.State == nimbus.StateRunning && strings.Contains(p.log(t, j), "\nwaiting\n")
	})
	begun := p.steps(t, j)
	want := [][]string{{"Compile", "compiled with ***", "##[error]Process completed with exit code 4."}, {"Test", "waiting"}}
	if diff := cmp.Diff(want, begun[1:]); diff != "" {
		t.Error(diff)
	}
	must(t, os.WriteFile(file, nil, 0o600))
	j = p.await(t, j.ID, "finished", over)
	for i := range 2000 {
		want[1] = append(want[1], fmt.Sprintf("line %d", i+1))
	}
	want[1] = append(want[1], "last words")
	want = append(want, []string{"Complete job", "Cleaning up orphan processes"})
	if diff := cmp.Diff(want, p.steps(t, j)[1:]); diff != "" {
		t.Errorf("ended with %s: %s", j.Result, diff)
	}
	log := p.log(t, j)
	for _, said := range []string{": Listening for Jobs\n", ": Running job: work\n", ": Job work completed with result: Succeeded\n"} {
		if strings.Count(log, said) != 1 {
			t.Errorf("%q is not in the log once", said)
		}
	}
	p.violations(t)
}

// failsFirst is a runner that ends with the given words and code at its first
// start, and is the stand-in after that.
func failsFirst(t *testing.T, words string, code int) programs.Finder {
	t.Helper()
	standIn, err := exec.LookPath("nimbus-runner")
	must(t, err)
	script := fmt.Sprintf("#!/bin/sh\nif mkdir %s 2>/dev/null; then echo '%s'; exit %d; fi\nexec %s\n", filepath.Join(t.TempDir(), "failed"), words, code, standIn)
	return programs.Finder{Embedded: fstest.MapFS{"nimbus-runner": &fstest.MapFile{Data: []byte(script), Mode: fs.FileMode(0o755)}}, Dir: t.TempDir()}
}

// TestARunnerThatEndsWithoutAJob: however it ends, its job gets another one,
// and the history says why; an exit code of 0 is no success.
func TestARunnerThatEndsWithoutAJob(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	for name, tt := range map[string]struct {
		words string
		code  int
		says  string
	}{
		"silence":          {"bye", 0, "its runner ended without having had a job"},
		"success":          {"Runner listener exit with 0 return code, stop the service, no retry needed.", 0, "without having had a job (listener exit code 0)"},
		"terminated":       {"Runner listener exit with terminated error, stop the service, no retry needed.", 0, "its own last words are in the log (listener exit code 1)"},
		"session conflict": {"Runner listener exit with Session Conflict error, stop the service, no retry needed.", 0, "session of another runner by its name (listener exit code 5)"},
		"updating":         {"Runner listener exit because of updating, re-launch runner after successful update", 0, "update itself"},
		"refreshed":        {"Exiting with unknown error code: 6", 0, "another configuration (listener exit code 6)"},
		"deprecated":       {"Runner listener exit with deprecated version exit code: 7.", 7, "`nimbus images build` makes an image with a newer one (listener exit code 7)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPlane(t, githubtest.Config{})
			startHost(t, p, t.TempDir(), failsFirst(t, tt.words, tt.code))
			p.push(t, workflow("echo done"))
			j := p.await(t, p.onlyJob(t).ID, "finished", over)
			if j.Result != nimbus.ResultSuccess || j.AttemptCount != 2 {
				t.Errorf("ended with %s after %d attempts: %+v", j.Result, j.AttemptCount, j.Reason)
			}
			events, _, err := p.scheduler.EventPage(t.Context(), nimbus.DefaultOrgID, j.ID, 0, "")
			must(t, err)
			if !slices.ContainsFunc(events, func(e nimbus.JobEvent) bool {
				return e.Kind == string(nimbus.StateQueued) && strings.Contains(e.Detail, tt.says)
			}) {
				t.Errorf("its history does not say %q: %+v", tt.says, events)
			}
			if left := p.github.Runners(); len(left) > 0 {
				t.Errorf("runners left at GitHub: %+v", left)
			}
			p.violations(t)
		})
	}
}

// TestARunnerThatNeverGetsAJob: the last reason is shown with the job.
func TestARunnerThatNeverGetsAJob(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	p := startPlane(t, githubtest.Config{})
	tooOld := fstest.MapFS{"nimbus-runner": &fstest.MapFile{
		Data: []byte("#!/bin/sh\necho 'Runner listener exit with deprecated version exit code: 7.'\nexit 7\n"), Mode: 0o755,
	}}
	startHost(t, p, t.TempDir(), programs.Finder{Embedded: tooOld, Dir: t.TempDir()})
	p.push(t, workflow("echo done"))
	j := p.await(t, p.onlyJob(t).ID, "held", func(j nimbus.Job) bool { return j.State == nimbus.StateUnschedulable })
	if j.Reason.Code != nimbus.ReasonAttemptsUsed || !strings.Contains(j.Reason.Message, "takes its version no more") {
		t.Errorf("it is held for %+v", j.Reason)
	}
}

// TestCompletedStopsTheSandbox: once GitHub says that a job is cancelled, its
// sandbox goes, be its runner deaf to that and to every signal but the last.
// The figures are for people: they are the machine's.
func TestCompletedStopsTheSandbox(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	for name, script := range map[string]string{
		"a runner that does not listen": "echo begin\ntouch DIR/ready\nsleep 1000",
		"a frozen runner":               "trap '' TERM INT\necho begin\nuntil test -e DIR/go; do sleep 0.05; done\nkill -STOP $PPID\ntouch DIR/ready\nwhile :; do sleep 1; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, dir, files := startPlane(t, githubtest.Config{}), t.TempDir(), t.TempDir()
			startHost(t, p, dir)
			p.push(t, workflow(strings.ReplaceAll(script, "DIR", files)))
			j := p.await(t, p.onlyJob(t).ID, "running", func(j nimbus.Job) bool {
				return j.State == nimbus.StateRunning && strings.Contains(p.log(t, j), "\nbegin\n")
			})
			must(t, os.WriteFile(filepath.Join(files, "go"), nil, 0o600))
			p.await(t, j.ID, "ready", func(nimbus.Job) bool {
				_, err := os.Stat(filepath.Join(files, "ready"))
				return err == nil
			})
			runner := p.github.Runners()[0]
			said := time.Now()
			// GitHub tells the runner too; that this one does not hear it is the case.
			_, err := p.scheduler.ProcessDelivery(t.Context(), nimbus.Delivery{ID: "cancelled", Event: "workflow_job", ReceivedAt: said}, &nimbus.ForgeEvent{
				Status: nimbus.ForgeCompleted, Conclusion: "cancelled", Job: j.GitHub, Name: j.Name, Labels: j.Labels, RunnerID: runner.ID, RunnerName: runner.Name,
			})
			must(t, err)
			j = p.await(t, j.ID, "finished", over)
			if j.Result != nimbus.ResultCancelled {
				t.Errorf("ended with %s, %+v", j.Result, j.Reason)
			}
			took := j.Timeline.DestroyedAt.Sub(said)
			t.Logf("destroyed %s after GitHub said so", took.Round(time.Millisecond))
			if took > 2*time.Minute { // it would go on for a quarter of an hour
				t.Error("that is no matter of seconds, on a busy machine either")
			}
			empty(t, dir)
		})
	}
}
