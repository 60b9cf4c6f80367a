package scheduler_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// forgeRun is GitHub's run 1: its attempt, whether it is over, and what it was
// asked for.
type forgeRun struct {
	attempt int64
	over    bool
	jobs    map[int64]nimbus.ForgeRunJob
	asked   []string
	refuse  error  // answers the next rerun
	done    bool   // which is done all the same
	asking  func() // called while one is asked for
}

func (g *github) RunState(context.Context, nimbus.GitHubJob) (nimbus.ForgeRunState, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nimbus.ForgeRunState{}, g.err
	}
	return nimbus.ForgeRunState{Attempt: max(g.run.attempt, 1), Over: g.run.over, Jobs: g.run.jobs, All: true}, nil
}

func (g *github) RerunJob(_ context.Context, job nimbus.GitHubJob) error {
	return g.rerun(fmt.Sprintf("job %d", job.JobID))
}
func (g *github) RerunFailed(context.Context, nimbus.GitHubJob) error { return g.rerun("failed") }

func (g *github) rerun(what string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run.asking != nil {
		g.run.asking()
	}
	refuse := g.run.refuse
	g.run.refuse = nil
	g.run.asked = append(g.run.asked, what)
	if refuse == nil && !g.run.over {
		return nimbus.Errorf(nimbus.CodeConflict, "This workflow is already running")
	}
	if refuse == nil || g.run.done {
		g.run.attempt, g.run.over = max(g.run.attempt, 1)+1, false
	}
	return refuse
}

func (g *github) runEnds(jobs map[int64]string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.run.over, g.run.jobs = true, map[int64]nimbus.ForgeRunJob{}
	for id, conclusion := range jobs {
		g.run.jobs[id] = nimbus.ForgeRunJob{Name: fmt.Sprintf("job %d", id%100), Conclusion: conclusion}
	}
}

func (w *world) asked(want ...string) {
	w.t.Helper()
	w.github.mu.Lock()
	defer w.github.mu.Unlock()
	if diff := cmp.Diff(want, w.github.run.asked); diff != "" {
		w.t.Fatalf("GitHub was asked for (-want +got):\n%s", diff)
	}
}

// lose has a job of GitHub's run, and its host die.
func (w *world) lose(id int64, edit ...func(*nimbus.ForgeEvent)) nimbus.Job {
	w.t.Helper()
	host := w.host()
	w.deliver(w.event(id, nimbus.ForgeQueued, edit...))
	a := w.runner(host)
	w.deliver(w.event(id, nimbus.ForgeInProgress, append(edit, by(a.AttemptID))...))
	w.pass(time.Minute)
	w.pass(10 * time.Second)
	return w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultLost, nimbus.ReasonLeaseExpired)
}

func (w *world) policy(perRun, perHour int) {
	w.t.Helper()
	w.must(w.SetRerunPolicy(w.t.Context(), admin, nimbus.DefaultOrgID, nimbus.RerunPolicy{PerRun: perRun, PerHour: perHour}))
}

func (w *world) use() nimbus.RerunUse {
	w.t.Helper()
	use, err := w.RerunPolicy(w.t.Context(), nimbus.DefaultOrgID)
	w.must(err)
	return use
}

func attempt(n int64) func(*nimbus.ForgeEvent) {
	return func(ev *nimbus.ForgeEvent) { ev.Job.RunAttempt = n }
}

func TestLostJobsAreRunAgain(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.policy(1, 5)
		j := w.lose(1)
		w.pass(time.Minute)
		w.asked() // the run goes on
		w.shows("failure Nimbus: job 1 " + fault)
		if c := w.github.checks[0]; !strings.Contains(c.Summary, "as soon as the run is over") {
			t.Errorf("it says %q", c.Summary)
		}
		if use := w.use(); use.Waiting != 1 || use.LastHour != 0 {
			t.Errorf("%+v", use)
		}
		w.github.runEnds(map[int64]string{1: "failure", 2: "success", 3: "skipped"})
		for range 3 {
			w.pass(10 * time.Minute)
		}
		w.asked("failed")
		if e := w.lastEvent(j.ID); e.Kind != "rerun" || e.Actor != "system" || !strings.Contains(e.Detail, "attempt 2 of run 1") {
			t.Errorf("its history ends with %+v", e)
		}
		w.shows("failure Nimbus: job 1 " + fault)
		if c := w.github.checks[0]; !strings.Contains(c.Summary, "Nimbus had GitHub run it again.") {
			t.Errorf("it says %q", c.Summary)
		}
		if use := w.use(); use.Waiting != 0 || use.LastHour != 1 {
			t.Errorf("%+v", use)
		}

		// The next attempt is lost too: once a run is all the org allows.
		again := w.lose(4, attempt(2))
		w.github.runEnds(map[int64]string{4: "failure"})
		w.pass(10 * time.Minute)
		w.asked("failed")
		if e := w.lastEvent(again.ID); e.Kind != "not_rerun" || !strings.Contains(e.Detail, "1 times before") {
			t.Errorf("its history ends with %+v", e)
		}
	})
}

// TestOthersAreNotRunAgain: neither what failed by itself, nor anything where
// the org does not want it.
func TestOthersAreNotRunAgain(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.lose(1) // before there was a policy
		w.policy(3, 5)
		host := w.host()
		w.deliver(w.event(2, nimbus.ForgeQueued))
		a := w.runner(host)
		w.deliver(w.event(2, nimbus.ForgeInProgress, by(a.AttemptID)))
		w.deliver(w.event(2, nimbus.ForgeCompleted, by(a.AttemptID), concluded("failure")))
		w.github.runEnds(map[int64]string{1: "failure", 2: "failure"})
		w.pass(10 * time.Minute)
		w.asked()

		// Beside a failure of the workflow's own, the lost job alone is.
		w.github.run = forgeRun{}
		w.lose(3)
		w.github.runEnds(map[int64]string{2: "failure", 3: "failure"})
		w.pass(10 * time.Minute)
		w.asked("job 3")

		// One that somebody cancelled is left.
		w.github.run = forgeRun{attempt: 2}
		j := w.lose(4, attempt(2))
		w.github.runEnds(map[int64]string{4: "cancelled"})
		w.pass(10 * time.Minute)
		w.asked()
		if e := w.lastEvent(j.ID); e.Kind != "not_rerun" {
			t.Errorf("its history ends with %+v", e)
		}
	})
}

// TestLossesBesideAFailure: GitHub runs one job again, or all that failed. So
// they are run again one after the other, each in an attempt of its own, where a
// job that is not run again may have another id.
func TestLossesBesideAFailure(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.policy(2, 5)
		lost := []nimbus.Job{w.lose(1), w.lose(2), w.lose(3)}
		w.github.runEnds(map[int64]string{1: "failure", 2: "failure", 3: "failure", 4: "failure"})
		w.pass(10 * time.Minute)
		w.asked("job 1")
		w.pass(10 * time.Minute)
		w.asked("job 1") // the second attempt goes on
		if use := w.use(); use.Waiting != 1 {
			t.Errorf("%+v", use)
		}
		w.github.runEnds(map[int64]string{1: "success", 102: "failure", 103: "failure", 104: "failure"})
		w.pass(10 * time.Minute)
		w.asked("job 1", "job 102")
		w.github.runEnds(map[int64]string{201: "success", 202: "success", 203: "failure", 204: "failure"})
		w.pass(10 * time.Minute)
		w.asked("job 1", "job 102") // and that is all the org allows
		for i, kind := range []string{"rerun", "rerun", "not_rerun"} {
			if e := w.lastEvent(lost[i].ID); e.Kind != kind {
				t.Errorf("job %d ends with %+v, want %s", i+1, e, kind)
			}
		}
	})
}

// TestLossesBehindARefusal: what waits for an attempt that GitHub does not begin
// is told so too.
func TestLossesBehindARefusal(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.policy(3, 5)
		lost := []nimbus.Job{w.lose(1), w.lose(2)}
		w.github.runEnds(map[int64]string{1: "failure", 2: "failure", 3: "failure"})
		w.github.run.refuse = nimbus.Errorf(nimbus.CodeForbidden, "not accessible")
		for range 3 {
			w.pass(10 * time.Minute)
		}
		w.asked("job 1")
		for i, j := range lost {
			if e := w.lastEvent(j.ID); e.Kind != "not_rerun" || !strings.Contains(e.Detail, "not accessible") {
				t.Errorf("job %d ends with %+v", i+1, e)
			}
		}
		if use := w.use(); use.Waiting != 0 {
			t.Errorf("%+v", use)
		}
	})
}

// TestRerunIsAskedOnce: whatever gets lost between the intent and its answer,
// one attempt is run again once.
func TestRerunIsAskedOnce(t *testing.T) {
	lost := nimbus.Errorf(nimbus.CodeUnavailable, "the connection broke")
	for name, c := range map[string]struct {
		run  forgeRun
		want []string
		says string
	}{
		"its answer is lost":       {forgeRun{refuse: lost, done: true}, []string{"failed"}, "rerun"},
		"it never got there":       {forgeRun{refuse: lost}, []string{"failed", "failed"}, "rerun"},
		"somebody else was faster": {forgeRun{attempt: 2}, nil, "not_rerun"},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
				w.policy(1, 1)
				j := w.lose(1)
				w.github.run = c.run
				w.github.runEnds(map[int64]string{1: "failure"})
				for range 5 {
					w.pass(10 * time.Minute)
					w = w.replica(scheduler.Config{}) // which knows what the books say
				}
				w.asked(c.want...)
				if e := w.lastEvent(j.ID); e.Kind != c.says {
					t.Errorf("its history ends with %+v", e)
				}
			})
		})
	}
}

// TestRerunAfterACrash: the process ends once the intent is committed, before
// GitHub was asked. The next one asks, and the bound counts it once.
func TestRerunAfterACrash(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.policy(1, 1)
		j := w.lose(1)
		w.github.runEnds(map[int64]string{1: "failure"})
		w.skip(time.Hour)
		ctx, crash := context.WithCancel(t.Context())
		w.github.run.refuse = context.Canceled
		w.github.run.asking = func() {
			if use, err := w.RerunPolicy(t.Context(), nimbus.DefaultOrgID); err != nil || use.LastHour != 1 {
				t.Errorf("it is asked for before the intent is committed: %+v, %v", use, err)
			}
			crash()
		}
		_ = scheduler.AskForge(w.Service, ctx)
		w.github.run.asking, w.github.run.asked = nil, nil
		other := w.replica(scheduler.Config{})
		other.sweep()
		other.asked() // the one that asked may yet have been heard
		other.pass(10 * time.Minute)
		other.asked("failed")
		if e := w.lastEvent(j.ID); e.Kind != "rerun" {
			t.Errorf("its history ends with %+v", e)
		}
	})
}

// TestReplicasRerunOnce: any number of replicas that look at once ask once.
func TestReplicasRerunOnce(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.policy(3, 5)
		w.lose(1)
		w.github.runEnds(map[int64]string{1: "failure"})
		w.skip(time.Hour)
		var replicas sync.WaitGroup
		for range 4 {
			other := w.replica(scheduler.Config{})
			replicas.Go(func() { _ = scheduler.AskForge(other.Service, t.Context()) })
		}
		replicas.Wait()
		w.asked("failed")
	})
}

// TestRerunsAnHour: beyond the org's bound they wait.
func TestRerunsAnHour(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.policy(10, 1)
		w.lose(1)
		w.github.runEnds(map[int64]string{1: "failure"})
		w.pass(5 * time.Minute)
		w.asked("failed")
		w.lose(2, attempt(2))
		w.github.runEnds(map[int64]string{2: "failure"})
		for range 4 {
			w.pass(5 * time.Minute)
		}
		w.asked("failed")
		w.pass(time.Hour)
		w.asked("failed", "failed")
	})
}

// TestRerunByHand: GitHub is asked for the one job, and what it refuses is told.
func TestRerunByHand(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		j := w.lose(1)
		_, err := w.Rerun(t.Context(), admin, nimbus.DefaultOrgID, j.ID, "")
		w.want(nimbus.CodeConflict, err)
		w.github.runEnds(map[int64]string{1: "failure"})
		w.github.run.refuse = nimbus.Errorf(nimbus.CodeForbidden, "not accessible").WithHint("give it actions:write")
		_, err = w.Rerun(t.Context(), admin, nimbus.DefaultOrgID, j.ID, "")
		w.want(nimbus.CodeForbidden, err)
		if !strings.Contains(nimbus.ErrorHint(err), "actions:write") {
			t.Errorf("the hint is %q", nimbus.ErrorHint(err))
		}
		got, err := w.Rerun(t.Context(), admin, nimbus.DefaultOrgID, j.ID, "")
		w.must(err)
		if e := w.lastEvent(j.ID); got.ID != j.ID || e.Kind != "rerun" || e.Actor != admin.Actor() {
			t.Errorf("%s, its history ends with %+v", got.ID, e)
		}
	})
}

func TestRerunPolicyIsBounded(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		for _, p := range []nimbus.RerunPolicy{{PerRun: 11, PerHour: 1}, {PerRun: 1, PerHour: 1001}, {PerRun: -1, PerHour: 1}} {
			w.want(nimbus.CodeInvalid, w.SetRerunPolicy(t.Context(), admin, nimbus.DefaultOrgID, p))
		}
		w.policy(2, 3)
		w.policy(0, 0)
		if w.use().On() {
			t.Error("it is on")
		}
	})
}
