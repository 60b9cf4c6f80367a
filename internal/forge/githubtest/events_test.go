package githubtest_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

const endless = `
on: push
jobs:
  a:
    runs-on: nimbus
    steps:
      - run: while :; do sleep 0.05; done
`

func completed(j githubtest.Job) bool { return j.Status == "completed" }

func TestNeeds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(project(`
on: push
jobs:
  first:
    runs-on: nimbus
    steps: [{run: exit 1}]
  skipped:
    needs: first
    runs-on: nimbus
    steps: [{run: echo}]
  after-skipped:
    needs: [skipped]
    runs-on: nimbus
    steps: [{run: echo}]
  reports:
    needs: [first, skipped]
    if: always()
    runs-on: nimbus
    steps: [{run: echo}]
  repairs:
    needs: first
    if: failure()
    runs-on: nimbus
    steps: [{run: echo}]
`))
	if got := w.statuses(run.Jobs[0].ID); got != "queued" {
		t.Errorf("first: %q", got)
	}
	for _, j := range run.Jobs[1:] {
		if got := w.statuses(j.ID); got != "" || j.Status != "blocked" {
			t.Errorf("%s: %q before its needs have ended", j.Key, got)
		}
	}
	_, jit := w.mint(run.Jobs[0], "r1")
	if code := w.run(jit).wait(t); code != 1 {
		t.Errorf("first ended with %d", code)
	}
	if err := w.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"queued in_progress completed:failure", "completed:skipped", "completed:skipped", "queued", "queued"} {
		if got := w.statuses(run.Jobs[i].ID); got != want {
			t.Errorf("%s: %q, want %q", run.Jobs[i].Key, got, want)
		}
	}
}

// TestAnyRunnerTakesTheJob: the oldest queued job goes to whoever has its
// labels, for whichever job the runner was made; one without them waits.
func TestAnyRunnerTakesTheJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(project(`
on: push
jobs:
  big:
    runs-on: [nimbus, "cpu:4"]
    steps: [{run: echo big}]
  small1:
    runs-on: [nimbus]
    steps: [{run: echo small1}]
  small2:
    runs-on: [Nimbus]
    steps: [{run: echo small2}]
`))
	big, small1, small2 := run.Jobs[0], run.Jobs[1], run.Jobs[2]
	_, jit := w.mint(small2, "for-small2")
	w.run(jit).wait(t)
	job, err := w.WaitJob(w.ctx, small1.ID, completed)
	if err != nil || job.RunnerName != "for-small2" {
		t.Errorf("small1 ran on %q (%v)", job.RunnerName, err)
	}
	if got := w.statuses(big.ID); got != "queued" {
		t.Errorf("big: %q without a runner that has its labels", got)
	}
	_, jit = w.mint(big, "for-big")
	r := w.run(jit)
	if r.wait(t) != 0 || !strings.Contains(r.out.String(), "big") {
		t.Errorf("for-big ran: %s", r.out)
	}
}

// waitOnline waits until a runner has opened its session.
func (w *world) waitOnline(name string) {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		for _, r := range w.Runners() {
			if r.Name == name && r.Online {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatalf("%s did not come online", name)
}

// TestConfigurationIsGoodOnce: a second session is a conflict while the first
// is open, and after the job the runner is no more.
func TestConfigurationIsGoodOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.push(project(endless)).Jobs[0]
	_, jit := w.mint(job, "r1")
	first := w.run(jit)
	if _, err := w.WaitJob(w.ctx, job.ID, func(j githubtest.Job) bool { return j.Status == "in_progress" }); err != nil {
		t.Fatal(err)
	}
	second := w.run(jit)
	if code := second.wait(t); code != 69 || !strings.Contains(second.errs.String(), "409") {
		t.Errorf("a second session: %d %s", code, second.errs)
	}
	// Another runner gets nothing of a job in progress.
	_, other := w.mint(job, "r2")
	third := w.run(other)
	w.waitOnline("r2")
	first.stop()
	first.wait(t)
	again := w.run(jit)
	if code := again.wait(t); code != 69 || !strings.Contains(again.errs.String(), "registration has been deleted") {
		t.Errorf("after the job: %d %s", code, again.errs)
	}
	third.stop()
	if code := third.wait(t); code != 130 || strings.Contains(third.out.String(), "Set up job") {
		t.Errorf("another runner: %d %s", code, third.out)
	}
}

func TestDeliveriesGoWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.PlanDeliveries(func(d githubtest.Delivery) githubtest.Plan {
		switch d.Action {
		case "queued":
			return githubtest.Plan{Copies: 2}
		case "in_progress":
			return githubtest.Plan{}
		}
		return githubtest.Plan{Copies: 1, Hold: true}
	})
	job := w.push(project(oneJob)).Jobs[0]
	_, jit := w.mint(job, "r1")
	if code := w.run(jit).wait(t); code != 0 {
		t.Fatal(code)
	}
	if err := w.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.statuses(job.ID); got != "queued" {
		t.Errorf("%q, want queued alone: doubled, dropped and held ones must not show", got)
	}
	w.ReleaseHeld(nil)
	if err := w.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.statuses(job.ID); got != "queued completed:success" {
		t.Errorf("%q after the release", got)
	}
	var codes []int
	for _, d := range w.Deliveries() {
		codes = append(codes, d.StatusCode)
	}
	if !slices.Equal(codes, []int{202, 200, 202}) {
		t.Errorf("answers %v, want accepted, duplicate, accepted", codes)
	}
}

// TestRedelivery: what failed is sent again under its GUID, and taken then.
func TestRedelivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mu.Lock()
	w.fail = true
	w.mu.Unlock()
	job := w.push(project(oneJob)).Jobs[0]
	failed := w.Deliveries()[0]
	if failed.StatusCode != http.StatusServiceUnavailable || w.statuses(job.ID) != "" {
		t.Fatalf("%+v", failed)
	}
	w.mu.Lock()
	w.fail = false
	w.mu.Unlock()
	if err := w.Redeliver(failed.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	again := w.Deliveries()[1]
	if again.GUID != failed.GUID || again.ID == failed.ID || !again.Redelivery || again.StatusCode != http.StatusAccepted || w.statuses(job.ID) != "queued" {
		t.Errorf("%d %v %s", again.StatusCode, again.Redelivery, w.statuses(job.ID))
	}
	w.Ping()
	if err := w.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	if pinged := w.Deliveries()[2]; pinged.StatusCode != http.StatusOK {
		t.Errorf("ping got %d", pinged.StatusCode)
	}
}

func TestSteal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(project(oneJob))
	job := run.Jobs[0]
	_, jit := w.mint(job, "ours")
	if err := w.Steal(job.ID, "theirs"); err != nil {
		t.Fatal(err)
	}
	r := w.run(jit)
	if err := w.FinishStolen(job.ID, "success"); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.statuses(job.ID); got != "queued in_progress completed:success" {
		t.Error(got)
	}
	if last := w.events[len(w.events)-1]; last.RunnerName != "theirs" {
		t.Errorf("ran on %q", last.RunnerName)
	}
	r.stop()
	r.wait(t)
}

func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(project(`
on: push
jobs:
  running:
    runs-on: nimbus
    steps:
      - run: |
          trap 'echo interrupted; exit 7' INT
          echo ready
          while :; do sleep 0.05; done
      - run: echo cleaned
        if: always()
  waiting:
    runs-on: [nimbus, other]
    steps: [{run: echo}]
`))
	running, waiting := run.Jobs[0], run.Jobs[1]
	_, jit := w.mint(running, "r1")
	r := w.run(jit)
	if _, err := w.WaitJob(w.ctx, running.ID, func(j githubtest.Job) bool { return strings.Contains(j.Log, "ready") }); err != nil {
		t.Fatal(err)
	}
	if err := w.CancelRun(run.ID); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(t); code != 130 {
		t.Errorf("exit code %d", code)
	}
	over, err := w.WaitRun(w.ctx, run.ID)
	if err != nil || over.Conclusion != "cancelled" {
		t.Errorf("%s, %v", over.Conclusion, err)
	}
	if log := over.Jobs[0].Log; !strings.Contains(log, "interrupted") || !strings.Contains(log, "cleaned") {
		t.Errorf("log:\n%s", log)
	}
	if got := w.statuses(running.ID); got != "queued in_progress completed:cancelled" {
		t.Error(got)
	}
	if got := w.statuses(waiting.ID); got != "queued completed:cancelled" {
		t.Error(got)
	}
}

// TestSilence: a runner that falls silent loses its job, one that is idle too
// long its registration; rerun-failed-jobs makes the job anew.
func TestSilence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(project(endless))
	job := run.Jobs[0]
	_, jit := w.mint(job, "r1")
	r := w.run(jit)
	if _, err := w.WaitJob(w.ctx, job.ID, func(j githubtest.Job) bool { return j.Status == "in_progress" }); err != nil {
		t.Fatal(err)
	}
	w.clock.move(11 * time.Minute)
	w.Sweep()
	over, err := w.WaitRun(w.ctx, run.ID)
	if err != nil || over.Conclusion != "failure" || !strings.Contains(over.Jobs[0].Log, "lost communication") {
		t.Fatalf("%+v, %v", over, err)
	}
	r.stop()
	r.wait(t)

	if err := w.RerunFailed(run.ID); err != nil {
		t.Fatal(err)
	}
	again, _ := w.Run(run.ID)
	if again.Attempt != 2 || again.Jobs[0].ID == job.ID || again.Jobs[0].Status != "queued" {
		t.Errorf("%+v", again)
	}
	if ev := w.event(again.Jobs[0].ID); ev.Job.RunAttempt != 2 || !ev.Demand {
		t.Errorf("%+v", ev)
	}
	if err := w.CancelRun(run.ID); err != nil {
		t.Fatal(err)
	}
	_, jit = w.mint(again.Jobs[0], "idle")
	idle := w.run(jit)
	w.waitOnline("idle")
	w.clock.move(6 * time.Minute)
	w.Sweep()
	if code := idle.wait(t); code != 69 {
		t.Errorf("an idle runner ended with %d", code)
	}
}

func TestPushRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, tt := range map[string]struct{ repo, workflow, says string }{
		"no repository": {"hello", oneJob, "owner/name"},
		"a fault":       {"o/r", "jobs: 7", ".github/workflows/ci.yml:1"},
	} {
		if _, err := w.Push(w.ctx, tt.repo, project(tt.workflow)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
