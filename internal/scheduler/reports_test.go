package scheduler_test

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// TestReportsLookAtASample: of a part of the time with many jobs the last ones
// are looked at, and the past is in the sample as well.
func TestReportsLookAtASample(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host(nimbus.ExecutorMicroVM)
		run := func() string {
			t.Helper()
			j := w.submit(nimbus.Spec{Command: []string{"make"}})
			l := w.start(host).Lease
			w.must(w.ReportPhase(t.Context(), host, l, nimbus.PhaseSandboxReady, nimbus.Start{Origin: nimbus.OriginWarm}))
			w.must(w.Finish(t.Context(), host, l, exited(0)))
			return j.ID
		}
		old := run()
		w.skip(20 * time.Hour)
		_, err := w.Heartbeat(t.Context(), host, nil) // it is still there
		w.must(err)
		for range 101 { // one more than a part of the time is looked at for
			run()
		}
		w.skip(time.Second)
		runs, since, until, sampled, err := w.FinishedRuns(t.Context(), nimbus.DefaultOrgID, 24*time.Hour)
		w.must(err)
		if len(runs) > 101 || len(runs) < 100 || until.Sub(since) != 24*time.Hour || runs[0].JobID != old {
			t.Errorf("%d runs from %s to %s, the first is %s, want %s", len(runs), since, until, runs[0].JobID, old)
		}
		if !sampled && len(runs) != 102 {
			t.Errorf("%d of 102 runs are all of them", len(runs))
		}
		if runs[1].Origin != nimbus.OriginWarm || runs[1].RunningAt.IsZero() && runs[1].AcceptedAt.IsZero() {
			t.Errorf("of a run it says %+v", runs[1])
		}
		runs, _, _, _, err = w.FinishedRuns(t.Context(), "org_other", 0)
		if err != nil || len(runs) != 0 {
			t.Errorf("another org's: %d runs, %v", len(runs), err)
		}
		for _, span := range []time.Duration{time.Minute, -time.Hour, 91 * 24 * time.Hour} {
			_, _, _, _, err := w.FinishedRuns(t.Context(), nimbus.DefaultOrgID, span)
			w.want(nimbus.CodeInvalid, err)
		}
	})
}

// TestWhatHostsRunHasItsUse: while a job runs, and no longer.
func TestWhatHostsRunHasItsUse(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host(nimbus.ExecutorMicroVM)
		job := w.submit(nimbus.Spec{Command: []string{"make"}})
		l := w.start(host).Lease
		w.must(w.ReportUsage(t.Context(), []scheduler.AttemptUsage{{HeldLease: scheduler.HeldLease{Lease: l, HostID: host},
			Series: nimbus.UsageSeries{Start: time.Unix(1000, 0), Step: time.Second, Points: []nimbus.UsageSample{{At: 2 * time.Second, CPU: time.Second}}}}}))
		jobs, more, err := w.HostJobs(t.Context())
		w.must(err)
		if len(jobs) != 1 || more || jobs[0].JobID != job.ID || jobs[0].HostID != host || jobs[0].CPUs != 0.5 || jobs[0].ToldAt.IsZero() {
			t.Errorf("%+v, more: %t", jobs, more)
		}
		w.must(w.Finish(t.Context(), host, l, exited(0)))
		if jobs, _, err = w.HostJobs(t.Context()); err != nil || len(jobs) != 0 {
			t.Errorf("after its end: %+v, %v", jobs, err)
		}
	})
}

// TestAPressedHostGetsNothing: it says so itself; what it says is kept.
func TestAPressedHostGetsNothing(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host(nimbus.ExecutorMicroVM)
		w.submit(nimbus.Spec{Command: []string{"make"}})
		pressed := nimbus.Capacity{Load: nimbus.Load{Memory: 50, Closed: nimbus.PressureMemory, Why: "everything waits"}}
		got, err := w.Poll(t.Context(), host, pressed, 0)
		w.must(err)
		if len(got.Offers) > 0 {
			t.Errorf("it was offered %+v", got.Offers)
		}
		w.skip(10 * time.Second)
		_, err = w.Heartbeat(t.Context(), host, nil)
		w.must(err)
		hosts, err := w.Hosts(t.Context())
		w.must(err)
		if hosts[0].Free.Load != pressed.Load {
			t.Errorf("kept of it: %+v", hosts[0].Free.Load)
		}
		_, err = w.Poll(t.Context(), host, nimbus.Capacity{Load: nimbus.Load{Memory: 101}}, 0)
		w.want(nimbus.CodeInvalid, err)
		w.offer(host)
	})
}
