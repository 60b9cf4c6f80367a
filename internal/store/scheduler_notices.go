package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// ScheduleNotice implements scheduler.Tx.
func (t schedulerTx) ScheduleNotice(_ context.Context, jobID string, at time.Time) error {
	t.books.notices[jobID] = micros(at)
	t.books.touch()
	return nil
}

func (b *books) newNotices() (rows [][]any) {
	for _, id := range sortedKeys(b.notices) {
		rows = append(rows, []any{id, b.notices[id], int64(0), int64(0), ""})
	}
	clear(b.notices)
	return rows
}

// SaveNotice implements scheduler.Tx.
func (t schedulerTx) SaveNotice(ctx context.Context, n scheduler.Notice) error {
	t.books.changes++
	return t.tx.SaveNotice(ctx, gen.SaveNoticeParams{
		JobID: n.JobID, DueAt: micros(n.DueAt), Tries: int64(n.Tries), CheckID: n.CheckID, Said: n.Said,
	})
}

// Notice implements scheduler.Reader.
func (t schedulerTx) Notice(ctx context.Context, jobID string) (scheduler.Notice, error) {
	if err := t.settled(ctx); err != nil {
		return scheduler.Notice{}, err
	}
	row, err := t.tx.Notice(ctx, jobID)
	if errors.Is(err, sql.ErrNoRows) {
		return scheduler.Notice{}, nimbus.Errorf(nimbus.CodeNotFound, "nothing is to be told of job %s", jobID)
	}
	return scheduler.Notice{
		JobID: row.JobID, DueAt: fromMicros(row.DueAt), Tries: int(row.Tries), CheckID: row.CheckID, Said: row.Said,
	}, err
}

// DueNotices implements scheduler.Reader.
func (t schedulerTx) DueNotices(ctx context.Context, most int) ([]string, error) {
	return t.tx.DueNotices(ctx, gen.DueNoticesParams{DueAt: t.nowMicros(), Limit: int32(most)})
}
