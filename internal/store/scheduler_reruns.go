package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// RerunPolicy implements scheduler.Reader.
func (t schedulerTx) RerunPolicy(ctx context.Context, orgID string) (nimbus.RerunPolicy, error) {
	row, err := t.tx.RerunPolicy(ctx, orgID)
	if errors.Is(err, sql.ErrNoRows) {
		return nimbus.RerunPolicy{}, nil
	}
	return nimbus.RerunPolicy{PerRun: int(row.PerRun), PerHour: int(row.PerHour)}, err
}

// LockRerunPolicy implements scheduler.Tx.
func (t schedulerTx) LockRerunPolicy(ctx context.Context, orgID string) (p nimbus.RerunPolicy, err error) {
	const read = "SELECT per_run, per_hour FROM rerun_policies WHERE org_id = $1"
	err = t.tx.db.QueryRowContext(ctx, read+t.tx.dialect.forUpdate(), orgID).Scan(&p.PerRun, &p.PerHour)
	if errors.Is(err, sql.ErrNoRows) {
		return nimbus.RerunPolicy{}, nil
	}
	return p, err
}

// SetRerunPolicy implements scheduler.Tx.
func (t schedulerTx) SetRerunPolicy(ctx context.Context, orgID string, p nimbus.RerunPolicy) error {
	t.books.changes++
	return t.tx.SetRerunPolicy(ctx, gen.SetRerunPolicyParams{OrgID: orgID, PerRun: int64(p.PerRun), PerHour: int64(p.PerHour)})
}

// InsertRerun implements scheduler.Tx.
func (t schedulerTx) InsertRerun(ctx context.Context, k scheduler.RerunKey, orgID, jobID string, due time.Time) error {
	t.books.changes++
	err := t.tx.InsertRerun(ctx, gen.InsertRerunParams{
		RepoID: k.RepoID, RunID: k.RunID, RunAttempt: k.RunAttempt, OrgID: orgID, DueAt: micros(due), MadeAt: t.nowMicros(),
	})
	if err != nil {
		return fmt.Errorf("keep that a run is to be run again: %w", err)
	}
	return t.tx.InsertRerunJob(ctx, gen.InsertRerunJobParams{JobID: jobID, OrgID: orgID, RepoID: k.RepoID, RunID: k.RunID, RunAttempt: k.RunAttempt})
}

// DropRerunJob implements scheduler.Tx.
func (t schedulerTx) DropRerunJob(ctx context.Context, jobID string) error {
	t.books.changes++
	return t.tx.DropRerunJob(ctx, jobID)
}

// DueReruns implements scheduler.Reader.
func (t schedulerTx) DueReruns(ctx context.Context, most int) ([]scheduler.RerunKey, error) {
	rows, err := t.tx.DueReruns(ctx, gen.DueRerunsParams{DueAt: t.nowMicros(), Limit: int32(most)})
	out := make([]scheduler.RerunKey, len(rows))
	for i, r := range rows {
		out[i] = scheduler.RerunKey{RepoID: r.RepoID, RunID: r.RunID, RunAttempt: r.RunAttempt}
	}
	return out, err
}

// TakeRerun implements scheduler.Tx.
func (t schedulerTx) TakeRerun(ctx context.Context, k scheduler.RerunKey, until time.Time) (*scheduler.Rerun, error) {
	t.books.changes++
	n, err := t.tx.TakeRerun(ctx, gen.TakeRerunParams{RepoID: k.RepoID, RunID: k.RunID, RunAttempt: k.RunAttempt, DueAt: micros(until), DueAt_2: t.nowMicros()})
	if err != nil || n == 0 {
		return nil, err
	}
	row, err := t.tx.Rerun(ctx, gen.RerunParams{RepoID: k.RepoID, RunID: k.RunID, RunAttempt: k.RunAttempt})
	return rerun(row), err
}

// SaveRerun implements scheduler.Tx.
func (t schedulerTx) SaveRerun(ctx context.Context, r *scheduler.Rerun) error {
	t.books.changes++
	n, err := t.tx.SaveRerun(ctx, gen.SaveRerunParams{RepoID: r.RepoID, RunID: r.RunID, RunAttempt: r.RunAttempt, State: string(r.State),
		DueAt: micros(r.DueAt), AskedAt: micros(r.AskedAt), Why: r.Why, Tries: int64(r.Tries)})
	if err == nil && n == 0 {
		return nimbus.Errorf(nimbus.CodeConflict, "somebody else looks at run %d by now", r.RunID)
	}
	return err
}

// RerunJobs implements scheduler.Reader.
func (t schedulerTx) RerunJobs(ctx context.Context, k scheduler.RerunKey, most int) ([]string, error) {
	return t.tx.RerunJobs(ctx, gen.RerunJobsParams{RepoID: k.RepoID, RunID: k.RunID, RunAttempt: k.RunAttempt, Limit: int32(most)})
}

// RerunOfJob implements scheduler.Reader.
func (t schedulerTx) RerunOfJob(ctx context.Context, jobID string) (*scheduler.Rerun, error) {
	row, err := t.tx.RerunOfJob(ctx, jobID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return rerun(row), err
}

// CountReruns implements scheduler.Reader.
func (t schedulerTx) CountReruns(ctx context.Context, orgID string, since time.Time) (asked, waiting int, err error) {
	a, err := t.tx.CountReruns(ctx, gen.CountRerunsParams{OrgID: orgID, AskedAt: micros(since)})
	if err != nil {
		return 0, 0, err
	}
	n, err := t.tx.CountOrgTriesAnew(ctx, gen.CountOrgTriesAnewParams{OrgID: orgID, TriedAt: micros(since)})
	if err != nil {
		return 0, 0, err
	}
	w, err := t.tx.CountWaitingReruns(ctx, orgID)
	return int(a + n), int(w), err
}

// TriesAnew implements scheduler.Reader.
func (t schedulerTx) TriesAnew(ctx context.Context, jobID string) (int, error) {
	n, err := t.tx.CountTriesAnew(ctx, jobID)
	return int(n), err
}

// InsertTryAnew implements scheduler.Tx.
func (t schedulerTx) InsertTryAnew(ctx context.Context, orgID, jobID string, nth int) error {
	t.books.changes++
	return t.tx.InsertTryAnew(ctx, gen.InsertTryAnewParams{JobID: jobID, Nth: int64(nth), OrgID: orgID, TriedAt: t.nowMicros()})
}

// CancelRerun implements scheduler.Tx.
func (t schedulerTx) CancelRerun(ctx context.Context, k scheduler.RerunKey, why string) error {
	t.books.changes++
	return t.tx.CancelRerun(ctx, gen.CancelRerunParams{RepoID: k.RepoID, RunID: k.RunID, RunAttempt: k.RunAttempt, Why: why})
}

// CountRunReruns implements scheduler.Reader.
func (t schedulerTx) CountRunReruns(ctx context.Context, k scheduler.RerunKey) (int, error) {
	n, err := t.tx.CountRunReruns(ctx, gen.CountRunRerunsParams{RepoID: k.RepoID, RunID: k.RunID})
	return int(n), err
}

func rerun(r gen.Rerun) *scheduler.Rerun {
	return &scheduler.Rerun{
		RerunKey: scheduler.RerunKey{RepoID: r.RepoID, RunID: r.RunID, RunAttempt: r.RunAttempt}, OrgID: r.OrgID, State: scheduler.RerunState(r.State),
		DueAt: fromMicros(r.DueAt), Tries: int(r.Tries), MadeAt: fromMicros(r.MadeAt), AskedAt: fromMicros(r.AskedAt), Why: r.Why,
	}
}
