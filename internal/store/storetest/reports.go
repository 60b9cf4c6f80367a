package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// testFinishedRuns: a part of the time has the jobs of one org that ended in it,
// the last first, with their last attempts.
func testFinishedRuns(t *testing.T, b *books) {
	var began time.Time
	finish := func() *scheduler.JobRecord {
		j := b.job()
		b.to(j, nimbus.StateQueued, nimbus.StateOffered, nimbus.StateAccepted, nimbus.StateRunning)
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			if began.IsZero() {
				began = tx.Now()
			}
			return tx.MoveJob(ctx, j, scheduler.Move{To: nimbus.StateFinished, Result: nimbus.ResultSuccess, Actor: "test"})
		})
		return j
	}
	first, second, third := finish(), finish(), finish()
	b.job() // has not ended
	a := b.attempt(second, scheduler.AttemptLive)
	used := nimbus.UsageTotals{CPUTime: time.Second, PeakCPUs: 1.5, PeakMemoryBytes: 7}
	at := began.Truncate(time.Microsecond)
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		now, err := tx.Attempt(ctx, a.AttemptID)
		if err != nil {
			return err
		}
		now.Origin, now.AcceptedAt, now.SandboxReadyAt, now.RunningAt = nimbus.OriginWarm, at, at.Add(time.Second), at.Add(2*time.Second)
		now.State, now.Outcome = scheduler.AttemptEnded, &nimbus.Outcome{Result: nimbus.ResultSuccess, Usage: nimbus.Usage{Sandbox: used}}
		second.AttemptID = a.AttemptID
		if err := tx.SaveJob(ctx, second); err != nil {
			return err
		}
		return tx.SaveAttempt(ctx, now)
	})
	read := func(org string, since, until time.Time, most int) (runs []nimbus.Run) {
		t.Helper()
		err := b.View(t.Context(), func(r scheduler.Reader) (err error) {
			runs, err = r.FinishedRuns(t.Context(), org, since, until, most)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return runs
	}
	all := read(nimbus.DefaultOrgID, began.Add(-time.Hour), began.Add(time.Hour), 10)
	var ids []string
	for _, r := range all {
		ids = append(ids, r.JobID)
		if r.JobID != second.ID {
			continue
		}
		want := nimbus.Run{JobID: second.ID, Name: "test", Class: class, Result: nimbus.ResultSuccess, Origin: nimbus.OriginWarm, Usage: used,
			QueuedAt: r.QueuedAt, FinishedAt: r.FinishedAt, AcceptedAt: at, SandboxReadyAt: at.Add(time.Second), RunningAt: at.Add(2 * time.Second)}
		if diff := cmp.Diff(want, r, cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Error(diff)
		}
		if r.QueuedAt.IsZero() || r.FinishedAt.IsZero() {
			t.Errorf("when it was queued or ended is missing: %+v", r)
		}
	}
	if diff := cmp.Diff([]string{third.ID, second.ID, first.ID}, ids); diff != "" {
		t.Error(diff)
	}
	if got := read(nimbus.DefaultOrgID, began.Add(-time.Hour), began.Add(time.Hour), 2); len(got) != 2 || got[0].JobID != third.ID {
		t.Errorf("of the last two: %+v", got)
	}
	if got := read(nimbus.DefaultOrgID, began.Add(-time.Hour), all[2].FinishedAt, 10); len(got) != 0 {
		t.Errorf("before the first: %+v", got)
	}
	if got := read("org_other", began.Add(-time.Hour), began.Add(time.Hour), 10); len(got) != 0 {
		t.Errorf("of another org: %+v", got)
	}
}

// testOutcomes: how long a job ran is known of those that ran and ended, by their
// last attempts. An org has its own jobs alone.
func testOutcomes(t *testing.T, b *books) {
	j := b.job()
	b.to(j, nimbus.StateQueued, nimbus.StateOffered, nimbus.StateAccepted, nimbus.StateRunning)
	first, last := b.attempt(j, scheduler.AttemptEnded), b.attempt(j, scheduler.AttemptLive)
	read := func(org string) (got []nimbus.JobOutcome) {
		t.Helper()
		err := b.View(t.Context(), func(r scheduler.Reader) error {
			return r.Outcomes(t.Context(), org, scheduler.JobFilter{PageSize: 10}, func(j nimbus.JobOutcome) { got = append(got, j) })
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	var ended time.Time
	run := func(attemptID string, ago time.Duration) {
		t.Helper()
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			a, err := tx.Attempt(ctx, attemptID)
			if err != nil {
				return err
			}
			if ended.IsZero() {
				ended = tx.Now()
			}
			a.RunningAt, j.AttemptID = ended.Add(-ago), attemptID
			if err := tx.SaveJob(ctx, j); err != nil {
				return err
			}
			return tx.SaveAttempt(ctx, a)
		})
	}
	run(first.AttemptID, time.Hour)
	run(last.AttemptID, 3*time.Second)
	if got := read(nimbus.DefaultOrgID); len(got) != 1 || got[0].Result != "" || got[0].Ran != -1 {
		t.Errorf("of a job that runs: %+v", got)
	}
	b.end(j, nimbus.ResultFailure)
	got := read(nimbus.DefaultOrgID)
	if len(got) != 1 || got[0].Result != nimbus.ResultFailure || got[0].Ran < 3*time.Second || got[0].Ran > time.Minute || !got[0].AdmittedAt.Equal(j.Timeline.AdmittedAt) {
		t.Errorf("of one that ended: %+v", got)
	}
	if got := read("org_other"); len(got) != 0 {
		t.Errorf("of another org: %+v", got)
	}
}

// testHostJobs: what has a lease is told with what it uses, and nothing else.
func testHostJobs(t *testing.T, b *books) {
	j := b.job()
	live := b.attempt(j, scheduler.AttemptLive)
	b.attempt(b.job(), scheduler.AttemptOffered)
	b.attempt(b.job(), scheduler.AttemptEnded)
	read := func(most int) (jobs []nimbus.HostJob) {
		t.Helper()
		err := b.View(t.Context(), func(r scheduler.Reader) (err error) {
			jobs, err = r.HostJobs(t.Context(), most)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return jobs
	}
	want := nimbus.HostJob{HostID: live.HostID, JobID: j.ID, OrgID: j.OrgID, AttemptID: live.AttemptID, Name: "test", Class: class}
	if diff := cmp.Diff([]nimbus.HostJob{want}, read(10)); diff != "" {
		t.Error(diff)
	}
	series := nimbus.UsageSeries{Start: time.Unix(1000, 0), Step: time.Second,
		Points: []nimbus.UsageSample{{At: time.Second, CPU: time.Second}, {At: 2 * time.Second, CPU: 2500 * time.Millisecond, MemoryBytes: 1 << 30}}}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		want.ToldAt, want.CPUs, want.MemoryBytes = tx.Now(), 1.5, 1<<30
		return tx.SaveLiveUsage(ctx, []scheduler.AttemptUsage{{HeldLease: scheduler.HeldLease{Lease: live.Lease, HostID: live.HostID}, Series: series}})
	})
	if diff := cmp.Diff([]nimbus.HostJob{want}, read(10), cmp.Comparer(time.Time.Equal)); diff != "" {
		t.Error(diff)
	}
	b.attempt(b.job(), scheduler.AttemptLive)
	if got := read(1); len(got) != 1 {
		t.Errorf("of at most one: %+v", got)
	}
}
