package scheduler_test

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// failed is an outcome of the job's own.
func failed() nimbus.Outcome {
	code := 3
	return nimbus.Outcome{Result: nimbus.ResultFailure, ExitCode: &code, LogLines: 1}
}

// beat renews a lease and returns its verdict.
func (w *world) beat(host string, l nimbus.Lease) nimbus.Verdict {
	w.t.Helper()
	s, err := w.Heartbeat(w.t.Context(), host, []nimbus.Lease{l})
	w.must(err)
	return s[0].Verdict
}

// running is how many leases a host has.
func (w *world) running(host string) int {
	w.t.Helper()
	hosts, err := w.Hosts(w.t.Context())
	w.must(err)
	for _, h := range hosts {
		if h.ID == host {
			return h.Running
		}
	}
	return -1
}

// TestASandboxStaysAfterAFailure: the job's end is told at once and stays what
// it was; the lease lasts on, until the time is over, somebody gives the sandbox
// up, or the host goes silent.
func TestASandboxStaysAfterAFailure(t *testing.T) {
	for name, end := range map[string]func(*world, string, nimbus.Lease, nimbus.Job){
		"its time is over": func(w *world, host string, l nimbus.Lease, _ nimbus.Job) {
			for range 3 {
				if v := w.beat(host, l); v != nimbus.VerdictKeep {
					w.t.Fatalf("it is to %s before", v)
				}
				w.pass(20 * time.Second)
			}
			w.pass(time.Second)
			if v := w.beat(host, l); v != nimbus.VerdictCancel {
				w.t.Fatalf("it is to %s", v)
			}
			w.must(w.Finish(w.t.Context(), host, l, failed()))
		},
		"it is given up": func(w *world, host string, l nimbus.Lease, j nimbus.Job) {
			for range 2 {
				_, err := w.Release(w.t.Context(), admin, nimbus.DefaultOrgID, j.ID)
				w.must(err)
			}
			if told := w.poll(host).Cancel; len(told) != 1 || told[0] != l.AttemptID {
				w.t.Fatalf("its host is told %v", told)
			}
			w.must(w.Finish(w.t.Context(), host, l, nimbus.Outcome{Result: nimbus.ResultCancelled}))
		},
		"its host is silent": func(w *world, host string, l nimbus.Lease, _ nimbus.Job) {
			w.pass(nimbus.LeaseDuration + time.Second)
			if v := w.beat(host, l); v != nimbus.VerdictFenced {
				w.t.Fatalf("the lease is %s", v)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
				host := w.host()
				j := w.submit(nimbus.Spec{Hold: time.Minute})
				a := w.start(host)
				for range 2 { // the answer may be lost
					held, err := w.FinishHeld(t.Context(), host, a.Lease, failed())
					w.must(err)
					if !held {
						t.Fatal("it is not held")
					}
				}
				got := w.expect(j.ID, nimbus.StateFinished, nimbus.ResultFailure)
				if got.ExitCode == nil || *got.ExitCode != 3 || time.Until(got.HeldUntil) > 2*time.Minute || got.HeldUntil.IsZero() {
					t.Errorf("exit code %v, held until %v", got.ExitCode, got.HeldUntil)
				}
				if n := w.running(host); n != 1 {
					t.Errorf("its host has %d leases", n)
				}
				end(w, host, a.Lease, j)
				got = w.expect(j.ID, nimbus.StateFinished, nimbus.ResultFailure)
				if got.ExitCode == nil || *got.ExitCode != 3 || !got.HeldUntil.IsZero() {
					t.Errorf("afterwards: exit code %v, held until %v", got.ExitCode, got.HeldUntil)
				}
				if n := w.running(host); n != 0 {
					t.Errorf("its host has %d leases still", n)
				}
			})
		})
	}
}

// TestWhatIsNotHeld ends as it would without the question.
func TestWhatIsNotHeld(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		success := nimbus.Outcome{Result: nimbus.ResultSuccess}
		early := failed()
		early.BeforeStart, early.Reason.Code = true, nimbus.ReasonWorkspace
		for name, c := range map[string]struct {
			spec nimbus.Spec
			o    nimbus.Outcome
			stop bool
		}{
			"a success":              {nimbus.Spec{Hold: time.Hour}, success, false},
			"one that wants no hold": {nimbus.Spec{}, failed(), false},
			"one that never ran":     {nimbus.Spec{Hold: time.Hour}, early, false},
			"one that was cancelled": {nimbus.Spec{Hold: time.Hour}, failed(), true},
			"one of a dead sandbox":  {nimbus.Spec{Hold: time.Hour}, nimbus.Outcome{Result: nimbus.ResultFailure, Reason: nimbus.Reason{Code: nimbus.ReasonSandboxFailed}}, false},
			"one that ran too long":  {nimbus.Spec{Hold: time.Hour}, nimbus.Outcome{Result: nimbus.ResultTimedOut}, false},
		} {
			j := w.submit(c.spec)
			a := w.accept(host)
			if !c.o.BeforeStart {
				w.must(w.ReportPhase(t.Context(), host, a.Lease, nimbus.PhaseStarted, nimbus.Start{}))
			}
			if c.stop {
				_, err := w.Cancel(t.Context(), admin, nimbus.DefaultOrgID, j.ID)
				w.must(err)
			}
			for range 2 {
				held, err := w.FinishHeld(t.Context(), host, a.Lease, c.o)
				w.must(err)
				if held {
					t.Errorf("%s is held", name)
				}
			}
			if got := w.expect(j.ID, nimbus.StateFinished); !got.HeldUntil.IsZero() || w.running(host) != 0 {
				t.Errorf("%s: held until %v, %d leases", name, got.HeldUntil, w.running(host))
			}
		}
		other := w.host()
		w.submit(nimbus.Spec{Hold: time.Hour})
		a := w.start(host)
		_, err := w.FinishHeld(t.Context(), other, a.Lease, failed())
		w.want(nimbus.CodeFenced, err)
		_, err = w.Release(t.Context(), admin, "org_00000000000000000000000001", a.JobID)
		w.want(nimbus.CodeNotFound, err)
		if got, err := w.Release(t.Context(), admin, nimbus.DefaultOrgID, a.JobID); err != nil || got.State != nimbus.StateRunning {
			t.Errorf("a job that runs is given up: %v, %v", got.State, err)
		}
	})
}
