package store

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

const usageColumns = "attempt_id text, org_id text, told_at bigint, cpu_milli bigint, memory bigint, series bytea"

// onUsage has a later word of an attempt replace the one before.
const onUsage = "ON CONFLICT (attempt_id) DO UPDATE SET told_at = excluded.told_at, cpu_milli = excluded.cpu_milli, " +
	"memory = excluded.memory, series = excluded.series"

// newLiveUsage takes the org from the attempt, and with it only what a host tells
// of a lease that it holds. Rows go in the order in which renewals lock theirs.
func newLiveUsage() bulk {
	cols := columns("id text, fence bigint, host_id text, told_at bigint, cpu_milli bigint, memory bigint, series bytea")
	names := joined(cols, func(_ int, c column) string { return c.name })
	const into = "INSERT INTO attempt_usage (attempt_id, org_id, told_at, cpu_milli, memory, series) "
	const live = "a.state = 'live' AND a.expires_at > "
	return bulk{
		columns: cols,
		one: into + "SELECT a.id, a.org_id, $4, $5, $6, $7 FROM attempts a WHERE a.id = $1 AND a.fence = $2 AND a.host_id = $3 AND " +
			live + "$4 " + onUsage,
		many: into + "SELECT a.id, a.org_id, v.told_at, v.cpu_milli, v.memory, v.series FROM " + unnest(cols) + " AS v (" + names + ") " +
			"JOIN attempts a ON a.id = v.id AND a.fence = v.fence AND a.host_id = v.host_id WHERE " + live + "v.told_at ORDER BY a.id " + onUsage,
	}
}

// usageRow is a series as both statements end with it.
func usageRow(nowMicros int64, s nimbus.UsageSeries) ([]any, error) {
	raw, err := s.MarshalBinary()
	if err != nil {
		return nil, err
	}
	cpus, memory := s.Now()
	const milli = 1000
	return []any{nowMicros, int64(cpus * milli), memory, raw}, nil
}

// SaveUsage implements scheduler.Tx.
func (t schedulerTx) SaveUsage(_ context.Context, a *scheduler.Attempt, s nimbus.UsageSeries) error {
	row, err := usageRow(t.nowMicros(), s)
	if err != nil {
		return err
	}
	t.books.usages[a.AttemptID] = append([]any{a.AttemptID, a.OrgID}, row...)
	t.books.touch()
	return nil
}

// newUsages are the rows that SaveUsage gathered.
func (b *books) newUsages() (rows [][]any) {
	for _, id := range sortedKeys(b.usages) {
		rows = append(rows, b.usages[id])
	}
	clear(b.usages)
	return rows
}

// SaveLiveUsage implements scheduler.Tx.
func (t schedulerTx) SaveLiveUsage(ctx context.Context, usages []scheduler.AttemptUsage) error {
	rows := map[string][]any{}
	for _, u := range usages {
		row, err := usageRow(t.nowMicros(), u.Series)
		if err != nil {
			return err
		}
		rows[u.AttemptID] = append([]any{u.AttemptID, u.Fence, u.HostID}, row...)
	}
	var sorted [][]any // and each once: one statement can't write a row twice
	for _, id := range sortedKeys(rows) {
		sorted = append(sorted, rows[id])
	}
	w := pipeline{tx: t.tx}
	w.write("keep what attempts use", t.tx.flushes.liveUsage, sorted)
	return w.run(ctx)
}

// Usage implements scheduler.Reader.
func (t schedulerTx) Usage(ctx context.Context, orgID, jobID, attemptID string) (scheduler.JobUsage, error) {
	current, err := t.tx.CurrentAttempt(ctx, gen.CurrentAttemptParams{OrgID: orgID, ID: jobID})
	if err != nil {
		return scheduler.JobUsage{}, fmt.Errorf("read what a job used: %w", interpret(err))
	}
	if attemptID == "" {
		attemptID = current
	}
	if attemptID == "" {
		return scheduler.JobUsage{}, nil // nobody had it yet
	}
	row, err := t.tx.AttemptUsage(ctx, gen.AttemptUsageParams{OrgID: orgID, ID: jobID, ID_2: attemptID})
	if err != nil {
		return scheduler.JobUsage{}, fmt.Errorf("read what a job used: %w", interpret(err))
	}
	u := scheduler.JobUsage{AttemptID: row.ID}
	if len(row.Series) > 0 {
		if err := u.Series.UnmarshalBinary(row.Series); err != nil {
			return u, err
		}
	}
	if u.Totals, err = totalsOf(row.Outcome); u.Totals == (nimbus.UsageTotals{}) {
		u.Totals = u.Series.Totals() // it goes on, or its host did not come to tell its end
	}
	return u, err
}

// totalsOf reads what an attempt used in all from its outcome.
func totalsOf(outcome string) (nimbus.UsageTotals, error) {
	var o struct {
		Usage struct{ Sandbox nimbus.UsageTotals }
	}
	if err := unmarshalSome(outcome, &o); err != nil {
		return nimbus.UsageTotals{}, fmt.Errorf("read the outcome of an attempt: %w", err)
	}
	return o.Usage.Sandbox, nil
}
