package scheduler_test

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// TestBoundJob: nobody learns of a job before GitHub has said that the runner has
// it; then it is the job that really runs, whichever the runner was made for, to who
// holds the lease and for as long as that lasts.
func TestBoundJob(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host, other := w.host(), w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		w.deliver(w.event(2, nimbus.ForgeQueued))
		a, b := w.runner(host), w.runner(host)
		bound := func(host string, l nimbus.Lease) (nimbus.Job, error) { return w.BoundJob(t.Context(), host, l) }
		for _, as := range []nimbus.Assignment{a, b} {
			_, err := bound(host, as.Lease)
			w.want(nimbus.CodeConflict, err)
		}
		w.deliver(w.event(2, nimbus.ForgeInProgress, by(a.AttemptID)))
		if j, err := bound(host, a.Lease); err != nil || j.ID != b.JobID || j.GitHub.JobID != w.event(2, nimbus.ForgeQueued).Job.JobID {
			t.Errorf("the runner that was made for job 1 has %s, %v", j.ID, err)
		}
		_, err := bound(host, b.Lease)
		w.want(nimbus.CodeConflict, err)
		_, err = bound(other, a.Lease)
		w.want(nimbus.CodeFenced, err)
		_, err = bound(host, nimbus.Lease{AttemptID: a.AttemptID, Fence: b.Fence})
		w.want(nimbus.CodeFenced, err)
		_, err = bound(host, nimbus.Lease{AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Fence: 1})
		w.want(nimbus.CodeFenced, err)
		w.skip(nimbus.LeaseDuration + time.Second)
		_, err = bound(host, a.Lease)
		w.want(nimbus.CodeFenced, err)
	})
}

// TestBoundJobHasGitHubAsked: where the event is late, who wants to know has GitHub
// asked before its time.
func TestBoundJobHasGitHubAsked(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		a := w.runner(host)
		w.event(1, nimbus.ForgeInProgress, by(a.AttemptID)) // GitHub has it, and the webhook got lost
		w.pass(10 * time.Second)
		if _, err := w.BoundJob(t.Context(), host, a.Lease); nimbus.ErrorCode(err) != nimbus.CodeConflict {
			t.Fatalf("before anybody asked: %v", err)
		}
		w.pass(10 * time.Second)
		if _, err := w.BoundJob(t.Context(), host, a.Lease); err != nil {
			t.Errorf("after it was asked: %v", err)
		}
	})
}
