package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// testUsage: what an attempt uses is kept while its lease is its host's and
// live, for its org alone, and its totals are in its job once it has ended.
func testUsage(t *testing.T, b *books) {
	j := b.job()
	b.to(j, nimbus.StateQueued, nimbus.StateOffered)
	a := b.attempt(j, scheduler.AttemptLive)
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		j.AttemptID = a.AttemptID
		return tx.SaveJob(ctx, j)
	})
	series := func(seconds int) nimbus.UsageSeries {
		s := nimbus.UsageSeries{Start: time.Unix(1000, 0).UTC()}
		for i := 1; i <= seconds; i++ {
			s.Add(nimbus.UsageSample{At: time.Duration(i) * time.Second, CPU: time.Duration(i) * time.Second / 2, MemoryBytes: int64(i) << 20})
		}
		return s
	}
	held := scheduler.HeldLease{Lease: a.Lease, HostID: a.HostID}
	tell := func(h scheduler.HeldLease, seconds int) {
		t.Helper()
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			return tx.SaveLiveUsage(ctx, []scheduler.AttemptUsage{{HeldLease: h, Series: series(seconds)}})
		})
	}
	want := func(attempt string, seconds int) {
		t.Helper()
		var got scheduler.JobUsage
		err := b.View(t.Context(), func(r scheduler.Reader) (err error) {
			got, err = r.Usage(t.Context(), j.OrgID, j.ID, attempt)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(series(seconds).Points, got.Series.Points); diff != "" || got.AttemptID != a.AttemptID {
			t.Errorf("attempt %s: %s", got.AttemptID, diff)
		}
		if want := series(seconds).Totals(); got.Totals != want {
			t.Errorf("totals %+v, want %+v", got.Totals, want)
		}
	}
	want("", 0)
	tell(held, 3)
	want(a.AttemptID, 3)
	tell(held, 5)
	tell(scheduler.HeldLease{Lease: nimbus.Lease{AttemptID: a.AttemptID, Fence: a.Fence - 1}, HostID: a.HostID}, 7)
	tell(scheduler.HeldLease{Lease: a.Lease, HostID: "host_other"}, 7)
	tell(scheduler.HeldLease{Lease: nimbus.Lease{AttemptID: "att_none", Fence: 1}, HostID: a.HostID}, 7)
	want("", 5)
	for _, ask := range [][3]string{{"org_other", j.ID, ""}, {j.OrgID, "job_other", ""}, {j.OrgID, j.ID, "att_other"}} {
		err := b.View(t.Context(), func(r scheduler.Reader) error {
			_, err := r.Usage(t.Context(), ask[0], ask[1], ask[2])
			return err
		})
		if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Errorf("%q tells of another's: %v", ask, err)
		}
	}

	ended := nimbus.Outcome{Result: nimbus.ResultSuccess, Usage: nimbus.Usage{Sandbox: series(6).Totals()}}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		now, err := tx.Attempt(ctx, a.AttemptID)
		if err != nil {
			return err
		}
		now.State, now.Outcome = scheduler.AttemptEnded, &ended
		if err := tx.SaveUsage(ctx, now, series(6)); err != nil {
			return err
		}
		return tx.SaveAttempt(ctx, now)
	})
	tell(held, 9) // comes late
	want("", 6)
	var job nimbus.Job
	err := b.View(t.Context(), func(r scheduler.Reader) (err error) {
		job, err = r.Job(t.Context(), j.OrgID, j.ID)
		return err
	})
	if err != nil || job.Usage != ended.Usage.Sandbox {
		t.Errorf("the job says %+v, %v", job.Usage, err)
	}
}
