package scheduler_test

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// TestUsageIsFenced: what a job uses can be told by who holds its lease and while
// it lasts, and by who ends it; never by whoever had it before.
func TestUsageIsFenced(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host(nimbus.ExecutorMicroVM)
		job := w.submit(nimbus.Spec{Command: []string{"make"}, Repeatable: true})
		series := func(cpu time.Duration) nimbus.UsageSeries {
			return nimbus.UsageSeries{Start: time.Unix(1000, 0), Step: time.Second, Points: []nimbus.UsageSample{{At: time.Second, CPU: cpu, MemoryBytes: 1 << 20}}}
		}
		tell := func(l nimbus.Lease, cpu time.Duration) {
			t.Helper()
			w.must(w.ReportUsage(t.Context(), []scheduler.AttemptUsage{{HeldLease: scheduler.HeldLease{Lease: l, HostID: host}, Series: series(cpu)}}))
		}
		used := func(attempt string, want time.Duration) {
			t.Helper()
			u, err := w.Usage(t.Context(), job.OrgID, job.ID, attempt)
			w.must(err)
			if u.Totals.CPUTime != want {
				t.Errorf("attempt %q used %s, want %s", attempt, u.Totals.CPUTime, want)
			}
		}
		used("", 0) // nobody had it yet

		first := w.start(host)
		tell(first.Lease, time.Second)
		used("", time.Second)
		w.skip(nimbus.LeaseDuration + time.Second)
		tell(first.Lease, 2*time.Second) // it has run out, though no sweep has seen it
		used("", time.Second)
		w.sweep()
		second := w.start(host)
		tell(first.Lease, 3*time.Second)
		used("", 0)
		used(first.AttemptID, time.Second)
		tell(second.Lease, 4*time.Second)

		o := exited(0)
		o.Series = series(5 * time.Second)
		o.Usage.Sandbox = o.Series.Totals()
		w.must(w.Finish(t.Context(), host, second.Lease, o))
		tell(second.Lease, 6*time.Second)
		used("", 5*time.Second)
		if got := w.job(job.ID).Usage.CPUTime; got != 5*time.Second {
			t.Errorf("the job used %s", got)
		}
		_, err := w.Usage(t.Context(), "org_other", job.ID, "")
		w.want(nimbus.CodeNotFound, err)
	})
}

// TestUsageThatCantBe: it is refused where it is told alone, and never keeps a
// job from its end.
func TestUsageThatCantBe(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host(nimbus.ExecutorMicroVM)
		job := w.submit(nimbus.Spec{Command: []string{"make"}})
		l := w.start(host).Lease
		absurd := nimbus.UsageSeries{Start: time.Unix(1000, 0), Points: []nimbus.UsageSample{{At: -time.Second}}}
		held := scheduler.HeldLease{Lease: l, HostID: host}
		w.want(nimbus.CodeInvalid, w.ReportUsage(t.Context(), []scheduler.AttemptUsage{{HeldLease: held, Series: absurd}}))
		w.want(nimbus.CodeTooLarge, w.ReportUsage(t.Context(), make([]scheduler.AttemptUsage, scheduler.MaxUsagesPerCall+1)))
		o := exited(0)
		o.Series, o.Usage.Sandbox.CPUTime = absurd, -1
		w.must(w.Finish(t.Context(), host, l, o))
		w.expect(job.ID, nimbus.StateFinished, nimbus.ResultSuccess)
		if u, err := w.Usage(t.Context(), job.OrgID, job.ID, ""); err != nil || len(u.Series.Points) > 0 || u.Totals != (nimbus.UsageTotals{}) {
			t.Errorf("%+v, %v", u, err)
		}
	})
}
