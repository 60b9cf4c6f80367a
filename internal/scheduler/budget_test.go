package scheduler_test

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// TestJobsWaitForBudget: while no runner could be registered, GitHub's jobs are
// offered to nobody, and others are.
func TestJobsWaitForBudget(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.github.wait = time.Hour
		w.deliver(w.event(1, nimbus.ForgeQueued))
		native := w.submit(nimbus.Spec{})
		if offers := w.poll(host).Offers; len(offers) != 1 || offers[0].JobID != native.ID {
			t.Fatalf("offers %+v, want the native job alone", offers)
		}
		w.accept(host)
		if offers := w.poll(host).Offers; len(offers) != 0 {
			t.Fatalf("offers %+v", offers)
		}
		w.github.wait = 0
		if a := w.runner(host); a.JobID != w.jobOf(1).ID {
			t.Errorf("offered %s", a.JobID)
		}
	})
}

// TestShortBudgetIsNoAttempt: a job whose runner can't be registered for long
// goes back to the queue as often as it takes; a short wait is the host's.
func TestShortBudgetIsNoAttempt(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		ctx := t.Context()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		j := w.jobOf(1)
		for range nimbus.DefaultMaxAttempts + 2 {
			a := w.accept(host)
			w.github.fail(&nimbus.Error{Code: nimbus.CodeUnavailable, Message: "rate limit exceeded", RetryAfter: time.Second})
			_, _, err := w.CreateRunner(ctx, host, a.Lease)
			w.want(nimbus.CodeUnavailable, err)
			w.expect(j.ID, nimbus.StateAccepted)
			w.github.fail(&nimbus.Error{Code: nimbus.CodeUnavailable, Message: "rate limit exceeded", RetryAfter: time.Hour})
			_, _, err = w.CreateRunner(ctx, host, a.Lease)
			w.want(nimbus.CodeUnavailable, err)
			if nimbus.ErrorRetryAfter(err) != time.Hour {
				t.Errorf("the wait is not told: %v", err)
			}
			if j := w.expect(j.ID, nimbus.StateQueued); j.AttemptCount != 0 {
				t.Fatalf("it counts as %d attempts", j.AttemptCount)
			}
			w.want(nimbus.CodeFenced, w.Finish(ctx, host, a.Lease, exited(1)))
		}
		w.github.fail(nil)
		// A host that gave up waiting is no attempt either.
		for range nimbus.DefaultMaxAttempts + 2 {
			a := w.accept(host)
			w.github.fail(nimbus.Errorf(nimbus.CodeUnavailable, "GitHub can't be reached"))
			_, _, err := w.CreateRunner(ctx, host, a.Lease)
			w.want(nimbus.CodeUnavailable, err)
			w.github.fail(nil)
			w.must(w.Finish(ctx, host, a.Lease, nimbus.Outcome{Result: nimbus.ResultFailure, BeforeStart: true,
				Reason: nimbus.Reason{Code: nimbus.ReasonForgeAway, Message: "register runner: unavailable"}}))
			w.pass(time.Second)
			if j := w.expect(j.ID, nimbus.StateQueued); j.AttemptCount != 0 {
				t.Fatalf("it counts as %d attempts", j.AttemptCount)
			}
		}
		w.runner(host)
	})
}
