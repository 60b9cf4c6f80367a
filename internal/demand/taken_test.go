package demand_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// TestNameIsTaken: GitHub answers that a runner of the name exists. One of ours
// whose registration was not answered never started: it is deleted and made
// anew. Of one that can't be deleted the job is given a new name.
func TestNameIsTaken(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		const register, remove = "actions/generate-runner-jitconfig-for-repo", "actions/delete-self-hosted-runner-from-repo"
		w.push("octo/a", 1)
		inv := nimbus.Inventory{Arch: "amd64", CPUs: 8, MemoryMiB: 8 << 10, Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorMicroVM, Available: true}}}
		h, err := w.sched.RegisterHost(t.Context(), "host", "v1", inv)
		w.must(err)
		accept := func() nimbus.Assignment {
			t.Helper()
			r, err := w.sched.Poll(t.Context(), h.ID, nimbus.Capacity{CPUs: 8, MemoryMiB: 8 << 10, Sandboxes: 8}, 0)
			w.must(err)
			if len(r.Offers) != 1 {
				t.Fatalf("%d offers", len(r.Offers))
			}
			a, err := w.sched.Accept(t.Context(), h.ID, r.Offers[0].Lease)
			w.must(err)
			return a
		}
		a := accept()
		w.Refuse(githubtest.Refusal{Operation: register, Status: http.StatusBadGateway, Done: true})
		if _, _, err := w.sched.CreateRunner(t.Context(), h.ID, a.Lease); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
			t.Fatalf("an answer that was lost: %v", err)
		}
		lost := w.Runners()
		r, jit, err := w.sched.CreateRunner(t.Context(), h.ID, a.Lease)
		if now := w.Runners(); err != nil || jit == "" || len(lost) != 1 || len(now) != 1 || now[0].ID != r.ID || r.ID == lost[0].ID || r.Name != lost[0].Name {
			t.Fatalf("%+v, %v; there was %+v and is %+v", r, err, lost, now)
		}

		// It has a job by now, GitHub says.
		w.Refuse(githubtest.Refusal{Operation: remove, Status: http.StatusUnprocessableEntity, Message: "Runner is currently running a job and cannot be deleted."})
		if _, _, err := w.sched.CreateRunner(t.Context(), h.ID, a.Lease); nimbus.ErrorCode(err) != nimbus.CodeConflict {
			t.Fatalf("a runner that has a job: %v", err)
		}
		w.pass(10 * time.Second)
		b := accept()
		r, _, err = w.sched.CreateRunner(t.Context(), h.ID, b.Lease)
		if err != nil || b.JobID != a.JobID || r.Name != nimbus.RunnerName(b.AttemptID) || r.Name == nimbus.RunnerName(a.AttemptID) {
			t.Errorf("the job %s goes on in %+v: %+v, %v", a.JobID, b, r, err)
		}
	})
}
