package scheduler_test

import (
	"slices"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

func in(repo string) func(*nimbus.ForgeEvent) {
	return func(ev *nimbus.ForgeEvent) { ev.Job.Repo = repo }
}

// TestRunnerOfAnOrganisation: GitHub gives a runner of the organisation a job of
// another of its repositories, and the books, with token and scopes, follow. A
// repository of another org of ours is not followed, nor is one of another owner.
func TestRunnerOfAnOrganisation(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.github.setOrg("octo")
		// Crosswise, over two repositories.
		w.deliver(w.event(1, nimbus.ForgeQueued))
		w.deliver(w.event(2, nimbus.ForgeQueued, in("other")))
		a, b := w.runner(host), w.runner(host)
		one, two := a.JobID, b.JobID
		w.deliver(w.event(2, nimbus.ForgeInProgress, in("other"), by(a.AttemptID)))
		if j := w.expect(two, nimbus.StateRunning); j.AttemptID != a.AttemptID || j.Repo != "Octo/other" {
			t.Errorf("job 2 of %s runs in %s, want %s", j.Repo, j.AttemptID, a.AttemptID)
		}
		if j := w.expect(one, nimbus.StateAccepted); j.AttemptID != b.AttemptID {
			t.Errorf("job 1 waits in %s, want %s", j.AttemptID, b.AttemptID)
		}
		if w.works(a.JobToken) != a.AttemptID || w.works(b.JobToken) != "" {
			t.Errorf("tokens are of %q and %q", w.works(a.JobToken), w.works(b.JobToken))
		}
		w.deliver(w.event(1, nimbus.ForgeInProgress, by(b.AttemptID)))
		w.expect(one, nimbus.StateRunning)

		// The runner that is left is of other labels: it is no spare.
		w.deliver(w.event(3, nimbus.ForgeQueued, labelled("nimbus", "linux")))
		w.deliver(w.event(4, nimbus.ForgeQueued, in("other")))
		c, d := w.runner(host), w.runner(host)
		w.deliver(w.event(4, nimbus.ForgeInProgress, in("other"), by(c.AttemptID)))
		w.expect(d.JobID, nimbus.StateRunning)
		if j := w.expect(c.JobID, nimbus.StateQueued); j.AttemptCount != 0 {
			t.Errorf("%d attempts are counted against a job whose runner was taken", j.AttemptCount)
		}
		w.sweep()
		if slices.Contains(w.github.runnerNames(), nimbus.RunnerName(d.AttemptID)) {
			t.Error("a runner that fits no job is still registered")
		}

		// Not over the border of an owner, whatever GitHub says.
		elsewhere := func(ev *nimbus.ForgeEvent) { ev.Job.Owner = "Evil" }
		host = w.host()
		e := w.runner(host)
		if e.JobID != c.JobID {
			t.Errorf("%s is offered, want job 3", e.JobID)
		}
		w.deliver(w.event(6, nimbus.ForgeInProgress, elsewhere, by(e.AttemptID)))
		if r := w.poll(host); !slices.Contains(r.Cancel, e.AttemptID) || w.works(e.JobToken) != "" {
			t.Error("a sandbox with a job of another owner goes on")
		}
	})
}

// TestRunnerOfAnOrganisationKeepsToItsOrg: two repositories of one organisation
// may be of two orgs of ours; a sandbox of one never runs a job of the other.
func TestRunnerOfAnOrganisationKeepsToItsOrg(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		w.github.setOrg("octo")
		w.deliver(w.event(1, nimbus.ForgeQueued, in("secret")))
		a := w.runner(host)
		w.deliver(w.event(1, nimbus.ForgeCompleted, in("secret"), by(a.AttemptID), concluded("success")))
		w.must(w.store.CreateOrg(t.Context(), nimbus.Org{ID: "org_apart", Name: "apart"}, nimbus.AuditEvent{}))
		_, err := w.store.MoveRepo(t.Context(), "octo/secret", "org_apart", nimbus.AuditEvent{})
		w.must(err)
		w.deliver(w.event(2, nimbus.ForgeQueued))
		b := w.runner(host)
		w.deliver(w.event(3, nimbus.ForgeInProgress, in("secret"), by(b.AttemptID)))
		if r := w.poll(host); !slices.Contains(r.Cancel, b.AttemptID) || w.works(b.JobToken) != "" {
			t.Error("a sandbox with a job of another org goes on")
		}
	})
}
