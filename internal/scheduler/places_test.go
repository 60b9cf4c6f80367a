package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

func (w *world) limit(most int) {
	w.t.Helper()
	w.must(w.SetLimit(w.t.Context(), admin, scheduler.Limit{OrgID: nimbus.DefaultOrgID, Kind: scheduler.LimitOrg, Most: most}))
}

// passPlaces lets d pass, and then has places looked for that nobody uses.
func (w *world) passPlaces(d time.Duration) {
	w.t.Helper()
	w.skip(d)
	w.must(scheduler.PassPlaces(w.Service, w.t.Context()))
}

// checkPlaces holds what limits count to what holds places of them.
func (w *world) checkPlaces(want int) {
	w.t.Helper()
	limits, _, err := w.Limits(w.t.Context(), nimbus.DefaultOrgID, 0, "")
	w.must(err)
	if len(limits) != 1 || limits[0].Used != want {
		w.t.Fatalf("limits %+v, want one of which %d are used", limits, want)
	}
}

// TestBudgetTakesNoPlace: a job that GitHub's budget keeps takes no place of a
// limit, and gives back one that it had, so that others of its org run.
func TestBudgetTakesNoPlace(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.limit(1)
		w.deliver(w.event(1, nimbus.ForgeQueued))
		kept := w.jobOf(1).ID
		w.expect(kept, nimbus.StateQueued)
		w.github.wait = time.Hour
		native := w.submit(nimbus.Spec{})
		w.poll(host) // what it has free is known now
		w.passPlaces(time.Second)
		w.expect(native.ID, nimbus.StatePending)
		w.passPlaces(10 * time.Second)
		w.expect(kept, nimbus.StatePending)
		if p := w.place(kept); !strings.Contains(p.Unknown, "the limit of 1 job") {
			t.Errorf("why it waits: %+v", p)
		}
		w.checkPlaces(1)
		a := w.start(host)
		if a.JobID != native.ID {
			t.Fatalf("offered %s", a.JobID)
		}
		w.must(w.Finish(t.Context(), host, a.Lease, exited(0)))
		w.checkPlaces(0)
		if p := w.place(kept); !strings.Contains(p.Unknown, "no runner be registered for it in the next 1h0m0s") {
			t.Errorf("why it waits: %+v", p)
		}
		w.must(scheduler.ReviewAll(w.Service, t.Context()))
		w.expect(kept, nimbus.StatePending)
		w.github.wait = 0
		w.must(scheduler.ReviewAll(w.Service, t.Context()))
		if a := w.runner(host); a.JobID != kept {
			t.Errorf("offered %s", a.JobID)
		}
		w.checkPlaces(1)
	})
}

// TestBusyClassGivesPlaceOn: a job whose hosts are all busy gives its place to
// one of another class for which there is room, and to nobody while there is none.
func TestBusyClassGivesPlaceOn(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		small, roomy := w.smallHost(), w.host(nimbus.ExecutorLocal)
		busy := w.submit(nimbus.Spec{})
		if got := w.startOne(small); got.JobID != busy.ID {
			t.Fatal(got)
		}
		w.limit(1)
		idle := w.submit(nimbus.Spec{})
		w.expect(idle.ID, nimbus.StateQueued)
		other, err := w.Submit(t.Context(), admin, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}}, Class: nimbus.Class{Executor: nimbus.ExecutorLocal}})
		w.must(err)
		w.expect(other.ID, nimbus.StatePending)
		if _, err := w.Poll(t.Context(), roomy, nimbus.Capacity{}, 0); err != nil {
			t.Fatal(err)
		}
		w.passPlaces(15 * time.Second)
		w.expect(idle.ID, nimbus.StateQueued) // the other could not start either
		w.poll(roomy)
		w.passPlaces(0)
		w.expect(idle.ID, nimbus.StatePending)
		a := w.start(roomy)
		if a.JobID != other.ID {
			t.Fatalf("offered %s", a.JobID)
		}
		w.passPlaces(15 * time.Second) // nothing is taken from one that runs
		w.checkPlaces(1)
		w.must(w.Finish(t.Context(), roomy, a.Lease, exited(0)))
		w.expect(idle.ID, nimbus.StateQueued)
		w.checkPlaces(1)
	})
}
