package scheduler_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

func TestRerun(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		ctx, host := t.Context(), w.host()
		sub := scheduler.Submission{Name: "nightly", Class: nimbus.Class{CPUs: 2}, Labels: []string{"nimbus"}, Metadata: map[string]string{"model": "x"}, Priority: 3,
			Spec: nimbus.Spec{Command: []string{"make"}, Env: map[string]string{"A": "b"}, Timeout: time.Hour, QueueTimeout: time.Minute, Repeatable: true}}
		old, err := w.Submit(ctx, admin, sub)
		w.must(err)
		_, err = w.Rerun(ctx, admin, nimbus.DefaultOrgID, old.ID, "")
		w.want(nimbus.CodeConflict, err)
		w.must(w.Finish(ctx, host, w.start(host).Lease, exited(1)))
		_, err = w.Rerun(ctx, admin, "org_00000000000000000000000001", old.ID, "")
		w.want(nimbus.CodeNotFound, err)
		j, err := w.Rerun(ctx, admin, nimbus.DefaultOrgID, old.ID, "k")
		w.must(err)
		if j.ID == old.ID || j.RerunOf != old.ID || j.State != nimbus.StateQueued {
			t.Errorf("%+v", j)
		}
		type asked struct {
			Name, Labels string
			Spec         nimbus.Spec
			Class        nimbus.Class
			Meta         map[string]string
			Priority     int
		}
		of := func(j nimbus.Job) asked {
			return asked{j.Name, strings.Join(j.Labels, " "), j.Spec, j.Class, j.Metadata, j.Priority}
		}
		if diff := cmp.Diff(of(w.job(old.ID)), of(j)); diff != "" {
			t.Errorf("what is run again differs:\n%s", diff)
		}
		again, err := w.Rerun(ctx, admin, nimbus.DefaultOrgID, old.ID, "k")
		w.must(err)
		if again.ID != j.ID {
			t.Errorf("repeated, it made another job")
		}
		if e := w.lastEvent(old.ID); e.Kind != "rerun" || e.Actor != admin.Actor() || e.Detail != "as "+j.ID {
			t.Errorf("%+v", e)
		}
	})
}

// TestLookingAnewAtWhatCantRun: what nothing could run waits for a host as soon as
// something can and somebody asks; else the reason of now is told.
func TestLookingAnewAtWhatCantRun(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.host()
		again := func(jobID, says string) {
			t.Helper()
			_, err := w.Rerun(ctx, admin, nimbus.DefaultOrgID, jobID, "")
			w.want(nimbus.CodeConflict, err)
			if !strings.Contains(err.Error(), says) || nimbus.ErrorHint(err) == "" {
				t.Errorf("refused with %v (%s), which says nothing of %q", err, nimbus.ErrorHint(err), says)
			}
		}
		w.deliver(w.event(1, nimbus.ForgeQueued, labelled("nimbus", "gold-plated")))
		strange := w.expect(w.jobOf(1).ID, nimbus.StateUnschedulable, nimbus.ReasonUnknownLabel)
		again(strange.ID, "its labels")
		w.deliver(w.event(2, nimbus.ForgeQueued, labelled("nimbus", "local")))
		local := w.expect(w.jobOf(2).ID, nimbus.StateUnschedulable, nimbus.ReasonUntrusted)
		again(local.ID, "nothing can run it yet")
		w.expect(local.ID, nimbus.StateUnschedulable, nimbus.ReasonUntrusted)

		trusting := w.replica(scheduler.Config{AllowTrustedLocal: true}) // the server was started with the flag
		j, err := trusting.Rerun(ctx, admin, nimbus.DefaultOrgID, local.ID, "")
		w.must(err)
		if j.ID != local.ID || j.State == nimbus.StateUnschedulable {
			t.Errorf("it is %s", j.State)
		}
		events, err := w.Events(ctx, nimbus.DefaultOrgID, local.ID)
		w.must(err)
		if !slices.ContainsFunc(events, func(e nimbus.JobEvent) bool { return e.Actor == admin.Actor() && e.Detail == "looked at anew" }) {
			t.Errorf("who asked is not in its history: %+v", events)
		}
		_, err = trusting.Rerun(ctx, admin, nimbus.DefaultOrgID, local.ID, "")
		w.want(nimbus.CodeConflict, err)
	})
}

func (w *world) lastEvent(jobID string) nimbus.JobEvent {
	w.t.Helper()
	events, err := w.Events(w.t.Context(), nimbus.DefaultOrgID, jobID)
	w.must(err)
	return events[len(events)-1]
}

func TestPriorityOfWaitingJobs(t *testing.T) {
	eachEngine(t, scheduler.Config{Window: 1}, func(t *testing.T, w *world) {
		ctx, host := t.Context(), w.smallHost()
		set := func(j nimbus.Job, priority int) error {
			return errOf(w.SetPriority(ctx, admin, nimbus.DefaultOrgID, j.ID, priority))
		}
		var jobs []nimbus.Job
		for range 4 {
			jobs = append(jobs, w.submit(nimbus.Spec{}))
		}
		w.expect(jobs[0].ID, nimbus.StateQueued)
		w.want(nimbus.CodeInvalid, set(jobs[3], nimbus.MaxPriority+1))
		_, err := w.SetPriority(ctx, admin, "org_00000000000000000000000001", jobs[3].ID, 1)
		w.want(nimbus.CodeNotFound, err)
		w.must(set(jobs[3], 5))  // overtakes 1 and 2
		w.must(set(jobs[1], -1)) // falls behind 2
		w.must(set(jobs[0], -5)) // is queued, and keeps its place
		if e := w.lastEvent(jobs[3].ID); e.Kind != "priority" || e.Actor != admin.Actor() || e.Detail != "from 0 to 5" {
			t.Errorf("%+v", e)
		}
		for _, i := range []int{0, 3, 2, 1} {
			r, err := w.Poll(ctx, host, nimbus.Capacity{CPUs: 1, MemoryMiB: 1024, Sandboxes: 1}, 0)
			w.must(err)
			if len(r.Offers) != 1 || r.Offers[0].JobID != jobs[i].ID {
				t.Fatalf("offered %+v, want job %d", r.Offers, i)
			}
			_, err = w.Accept(ctx, host, r.Offers[0].Lease)
			w.must(err)
			w.want(nimbus.CodeConflict, set(jobs[i], 1))
			w.must(w.Finish(ctx, host, r.Offers[0].Lease, exited(0)))
		}
		w.want(nimbus.CodeConflict, set(jobs[0], 1))
	})
}

func TestQueueTimeoutOfAJob(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		short := w.submit(nimbus.Spec{QueueTimeout: time.Minute})
		usual := w.submit(nimbus.Spec{})
		w.pass(2 * time.Minute)
		w.expect(short.ID, nimbus.StateFinished, nimbus.ResultTimedOut, nimbus.ReasonQueueTimeout)
		if j := w.job(short.ID); !strings.Contains(j.Reason.Message, "1m0s") {
			t.Errorf("the reason is %q", j.Reason.Message)
		}
		if j := w.job(usual.ID); j.State == nimbus.StateFinished {
			t.Errorf("the other one ended too: %+v", j.Reason)
		}
		_, err := w.Submit(t.Context(), admin, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"x"}, QueueTimeout: nimbus.MaxQueueTimeout + 1}})
		w.want(nimbus.CodeInvalid, err)
	})
}

func TestOneKeyIsForOneRequest(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		ctx := t.Context()
		sub := scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}, Env: map[string]string{"A": "1", "B": "2"}}, IdempotencyKey: "k"}
		first, err := w.Submit(ctx, admin, sub)
		w.must(err)
		same, err := w.Submit(ctx, admin, sub)
		w.must(err)
		if same.ID != first.ID {
			t.Errorf("the same request made another job")
		}
		other := sub
		other.Priority = 1
		_, err = w.Submit(ctx, admin, other)
		w.want(nimbus.CodeConflict, err)
		if !strings.Contains(err.Error(), first.ID) {
			t.Errorf("the error does not name the job: %v", err)
		}
		// Keys are each org's own.
		j, err := w.Submit(ctx, nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: w.org("other")}, other)
		w.must(err)
		if j.ID == first.ID {
			t.Error("another org got this one's job")
		}
	})
}

// TestJobsThatAreNowhereArePutBack deletes rows behind the scheduler's back.
func TestJobsThatAreNowhereArePutBack(t *testing.T) {
	eachEngine(t, scheduler.Config{Window: 2}, func(t *testing.T, w *world) {
		host := w.smallHost()
		var jobs []nimbus.Job
		for range 4 {
			jobs = append(jobs, w.submit(nimbus.Spec{}))
		}
		w.must(w.Finish(t.Context(), host, w.startOne(host).Lease, exited(0))) // one of history
		w.sweep()
		w.behind("DELETE FROM queue")
		w.behind("DELETE FROM backlog")
		if got := w.poll(host).Offers; len(got) != 0 {
			t.Fatalf("offered %v", got)
		}
		w.must(scheduler.Repair(w.Service, t.Context()))
		found := 0
		for _, j := range jobs[1:] {
			events, err := w.Events(t.Context(), nimbus.DefaultOrgID, j.ID)
			w.must(err)
			for _, e := range events {
				if e.Kind == "put_back" && e.Actor == "system" {
					found++
				}
			}
		}
		if found != 3 {
			t.Errorf("%d jobs were put back, not 3", found)
		}
		for range 3 {
			w.must(w.Finish(t.Context(), host, w.startOne(host).Lease, exited(0)))
		}
		w.must(scheduler.Repair(w.Service, t.Context())) // has nothing to do
		for _, j := range jobs {
			w.expect(j.ID, nimbus.StateFinished, nimbus.ResultSuccess)
		}
	})
}
