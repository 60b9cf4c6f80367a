package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// busy says whether GitHub has given the runner of an attempt a job.
func (w *world) busy(attemptID string, is bool) {
	w.github.mu.Lock()
	defer w.github.mu.Unlock()
	w.github.busy[w.github.runners[nimbus.RunnerName(attemptID)].ID] = is
}

// TestRunnerThatMayBeBusyIsNotStopped: the job that it was made for is over, and
// it has another one of which no event came.
func TestRunnerThatMayBeBusyIsNotStopped(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		a := w.runner(host)
		w.event(2, nimbus.ForgeInProgress, by(a.AttemptID)) // lost
		w.busy(a.AttemptID, true)
		w.deliver(w.event(1, nimbus.ForgeCompleted, byOther, concluded("success")))
		w.sweep()
		if r := w.poll(host); len(r.Cancel) != 0 {
			t.Fatal("a sandbox that runs a job was cancelled")
		}
		w.must(w.Observe(t.Context(), w.event(2, nimbus.ForgeInProgress, by(a.AttemptID))))
		w.expect(w.jobOf(2).ID, nimbus.StateRunning)
		w.must(w.Finish(t.Context(), host, a.Lease, exited(0)))
		w.deliver(w.event(2, nimbus.ForgeCompleted, by(a.AttemptID), concluded("success")))
		w.expect(w.jobOf(2).ID, nimbus.StateFinished, nimbus.ResultSuccess)
	})
}

// TestCancelledJobWhoseRunnerIsBusy: it ends at once, the sandbox with the job
// that it really has.
func TestCancelledJobWhoseRunnerIsBusy(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		a := w.runner(host)
		w.busy(a.AttemptID, true)
		_, err := w.Cancel(t.Context(), admin, nimbus.DefaultOrgID, a.JobID)
		w.must(err)
		w.sweep()
		w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultCancelled)
		if r := w.poll(host); len(r.Cancel) != 0 {
			t.Error("another job's sandbox was cancelled")
		}
		// One that is idle is stopped.
		w.deliver(w.event(2, nimbus.ForgeQueued))
		b := w.runner(host)
		_, err = w.Cancel(t.Context(), admin, nimbus.DefaultOrgID, b.JobID)
		w.must(err)
		w.sweep()
		if r := w.poll(host); len(r.Cancel) != 1 || r.Cancel[0] != b.AttemptID {
			t.Errorf("poll: %+v", r)
		}
	})
}

// TestLateWord: a job ran in an attempt that was over when GitHub's first word
// of it came. The books follow what really ran, and the job for which the runner
// was made is demand as before.
func TestLateWord(t *testing.T) {
	for name, before := range map[string]func(w *world){
		"never heard of": func(*world) {},
		"waiting":        func(w *world) { w.deliver(w.event(2, nimbus.ForgeQueued)) },
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
				host := w.host()
				w.deliver(w.event(1, nimbus.ForgeQueued))
				a := w.runner(host)
				before(w)
				w.must(w.Finish(t.Context(), host, a.Lease, exited(0)))
				w.sweep()
				first := w.expect(a.JobID, nimbus.StateQueued)
				w.deliver(w.event(2, nimbus.ForgeCompleted, by(a.AttemptID), concluded("failure")))
				second := w.expect(w.jobOf(2).ID, nimbus.StateFinished, nimbus.ResultFailure)
				if second.AttemptID != a.AttemptID {
					t.Errorf("it ran in %q, want %s", second.AttemptID, a.AttemptID)
				}
				if first = w.job(first.ID); first.AttemptCount != 0 || first.AttemptID != "" {
					t.Errorf("the other one: %+v", first)
				}
				b := w.runner(host)
				if b.JobID != first.ID {
					t.Errorf("offered %s", b.JobID)
				}
				w.deliver(w.event(1, nimbus.ForgeInProgress, by(b.AttemptID)))
				w.expect(first.ID, nimbus.StateRunning)
			})
		})
	}
}

// TestRunnersThatGetNoJobAreNoAttempts: GitHub removes runners that are idle for
// minutes; one that ends at once is ill.
func TestRunnersThatGetNoJobAreNoAttempts(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		j := w.jobOf(1)
		for range 2 * nimbus.DefaultMaxAttempts {
			a := w.runner(host)
			for range 6 {
				w.pass(20 * time.Second)
				_, err := w.Heartbeat(t.Context(), host, []nimbus.Lease{a.Lease})
				w.must(err)
			}
			w.must(w.Finish(t.Context(), host, a.Lease, exited(0)))
			w.sweep()
			if j = w.expect(j.ID, nimbus.StateQueued); j.AttemptCount != 0 {
				t.Fatalf("%d attempts", j.AttemptCount)
			}
		}
		for range nimbus.DefaultMaxAttempts {
			w.must(w.Finish(t.Context(), host, w.runner(host).Lease, exited(0)))
			w.sweep()
		}
		w.expect(j.ID, nimbus.StateUnschedulable, nimbus.ReasonAttemptsUsed)
	})
}

// TestRunnersThatAreRefusedAreAttempts: a runner that GitHub refuses may try
// for minutes, as one with a session conflict does. It is not taken for one
// that was removed since no job came, which would go on for ever.
func TestRunnersThatAreRefusedAreAttempts(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		j := w.jobOf(1)
		why := nimbus.Reason{Code: nimbus.ReasonRunnerRefused, Message: "GitHub has a session of another runner by its name"}
		for range nimbus.DefaultMaxAttempts {
			a := w.runner(host)
			for range 12 {
				w.pass(20 * time.Second)
				_, err := w.Heartbeat(t.Context(), host, []nimbus.Lease{a.Lease})
				w.must(err)
			}
			w.must(w.Finish(t.Context(), host, a.Lease, nimbus.Outcome{Result: nimbus.ResultFailure, Reason: why}))
			w.sweep()
		}
		w.expect(j.ID, nimbus.StateUnschedulable, nimbus.ReasonAttemptsUsed)
		if j, err := w.Job(t.Context(), nimbus.DefaultOrgID, j.ID); err != nil || !strings.Contains(j.Reason.Message, why.Message) {
			t.Errorf("%v, %+v", err, j.Reason)
		}
	})
}
