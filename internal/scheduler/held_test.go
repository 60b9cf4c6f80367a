package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// useUp has every attempt of a waiting job of GitHub's end before it begins.
func (w *world) useUp(host string, jobID string) nimbus.Job {
	w.t.Helper()
	dead := nimbus.Outcome{Result: nimbus.ResultFailure, BeforeStart: true,
		Reason: nimbus.Reason{Code: nimbus.ReasonSandboxFailed, Message: "no room for its disk"}}
	for range nimbus.DefaultMaxAttempts {
		w.must(w.Finish(w.t.Context(), host, w.accept(host).Lease, dead))
	}
	return w.expect(jobID, nimbus.StateUnschedulable, nimbus.ReasonAttemptsUsed)
}

// TestJobsThatNeverBeganAreHeld: GitHub holds such a job queued and runs nothing
// again meanwhile. It is told why, and tried anew as soon as somebody wants it.
func TestJobsThatNeverBeganAreHeld(t *testing.T) {
	eachEngine(t, scheduler.Config{PublicURL: "https://nimbus.example"}, func(t *testing.T, w *world) {
		host := w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		j := w.useUp(host, w.jobOf(1).ID)
		for range 8 {
			w.pass(30 * time.Minute) // nobody asked for it, and the org wants nothing by itself
		}
		w.expect(j.ID, nimbus.StateUnschedulable, nimbus.ReasonAttemptsUsed)
		w.shows("action_required Nimbus: job 1 " + "Nimbus can't run this job")
		c := w.github.checks[0]
		if !strings.Contains(c.Summary, "no room for its disk") || !strings.Contains(c.Summary, "“Run again”") || !strings.HasSuffix(c.URL, "/jobs/"+j.ID) {
			t.Errorf("it says %q, with %s", c.Summary, c.URL)
		}
		got, err := w.Rerun(t.Context(), admin, nimbus.DefaultOrgID, j.ID, "")
		w.must(err)
		if got.ID != j.ID || got.AttemptCount != 0 {
			t.Errorf("%+v", got)
		}
		w.asked() // not GitHub, which would refuse
		_, err = w.Rerun(t.Context(), admin, nimbus.DefaultOrgID, j.ID, "")
		w.want(nimbus.CodeConflict, err)
		host = w.host()
		a := w.runner(host)
		w.deliver(w.event(1, nimbus.ForgeInProgress, by(a.AttemptID)))
		w.deliver(w.event(1, nimbus.ForgeCompleted, by(a.AttemptID), concluded("success")))
		w.expect(j.ID, nimbus.StateFinished, nimbus.ResultSuccess)
	})
}

// TestHeldJobsAreTriedAnew: by themselves as often as the org lets a run, and
// only while GitHub says that they are queued.
func TestHeldJobsAreTriedAnew(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.policy(2, 5)
		host := w.host()
		w.deliver(w.event(1, nimbus.ForgeQueued))
		j := w.jobOf(1)
		for range 2 {
			w.useUp(host, j.ID)
			w.pass(time.Minute)
			w.expect(j.ID, nimbus.StateUnschedulable, nimbus.ReasonAttemptsUsed) // not at once: what is ill may need a while
			w.pass(15 * time.Minute)
			host = w.host()
			if got := w.job(j.ID); got.Reason.Code == nimbus.ReasonAttemptsUsed || got.AttemptCount != 0 {
				t.Fatalf("it is not tried anew: %+v", got.Reason)
			}
		}
		w.useUp(host, j.ID)
		for range 10 {
			w.pass(time.Hour)
		}
		w.expect(j.ID, nimbus.StateUnschedulable, nimbus.ReasonAttemptsUsed)

		w.deliver(w.event(2, nimbus.ForgeQueued))
		other := w.useUp(w.host(), w.jobOf(2).ID)
		w.event(2, nimbus.ForgeCompleted, concluded("cancelled")) // which its webhook does not tell
		w.pass(15 * time.Minute)
		w.pass(15 * time.Minute)
		w.expect(other.ID, nimbus.StateFinished, nimbus.ResultCancelled)
	})
}

// TestTriesAnewAnHour: they count among what the org allows an hour.
func TestTriesAnewAnHour(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.policy(5, 1)
		host := w.host()
		var held []nimbus.Job
		for id := range int64(2) {
			w.deliver(w.event(id+1, nimbus.ForgeQueued))
			held = append(held, w.useUp(host, w.jobOf(id+1).ID))
		}
		w.pass(6 * time.Minute)
		stuck := 0
		for _, j := range held {
			if w.job(j.ID).Reason.Code == nimbus.ReasonAttemptsUsed {
				stuck++
			}
		}
		if use := w.use(); stuck != 1 || use.LastHour != 1 {
			t.Errorf("%d of 2 are held, %+v", stuck, use)
		}
	})
}
