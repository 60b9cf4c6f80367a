package store

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Bounds of a batch.
const (
	batchPages = 500
	batchBytes = 8 << 20 // of text, but for one page
)

func (l *Logs) checkOutbox() error {
	if !l.outbox {
		return nimbus.Errorf(nimbus.CodeConflict, "the log store was opened without an outbox")
	}
	return nil
}

// Next implements logs.Outbox. Which pages are in a batch is committed before it is
// handed out. One that leads the work calls it.
func (l *Logs) Next(ctx context.Context) (b logs.Batch, ok bool, err error) {
	if err := l.checkOutbox(); err != nil {
		return b, false, err
	}
	for {
		var rows []gen.LogOutboxPagesRow
		err = l.store.write(ctx, func(t *tx) error {
			b.ID, rows, err = l.offer(ctx, t)
			return err
		})
		if err != nil || len(rows) == 0 {
			return logs.Batch{}, false, err
		}
		if b.Logs, err = l.parts(ctx, rows); err != nil || len(b.Logs) > 0 {
			return b, err == nil, err
		}
		if err := l.Shipped(ctx, b.ID); err != nil { // all of it was deleted
			return b, false, err
		}
	}
}

// offer returns the batch that is not shipped, or makes one of the oldest pages.
func (l *Logs) offer(ctx context.Context, t *tx) (id int64, rows []gen.LogOutboxPagesRow, err error) {
	if id, err = t.LogOutboxBatch(ctx); err != nil {
		return 0, nil, err
	}
	if rows, err = t.LogOutboxPages(ctx, gen.LogOutboxPagesParams{Batch: id, Limit: batchPages}); err != nil || id > 0 {
		return id, rows, err
	}
	newest, err := t.LogOutboxNewestBatch(ctx)
	if err != nil {
		return 0, nil, err
	}
	id = max(micros(t.now), newest+1)
	size := int64(0)
	for i, r := range rows {
		if size += r.TextBytes; size > batchBytes && i > 0 {
			return id, rows[:i], nil
		}
		if err := t.AssignLogOutbox(ctx, gen.AssignLogOutboxParams{AttemptID: r.AttemptID, FirstSeq: r.FirstSeq, Batch: id}); err != nil {
			return 0, nil, err
		}
	}
	return id, rows, nil
}

// parts reads the lines of pages. What was deleted meanwhile is left out.
func (l *Logs) parts(ctx context.Context, rows []gen.LogOutboxPagesRow) (parts []logs.Part, err error) {
	at := map[nimbus.LogKey]int{}
	for _, r := range rows {
		var pages []gen.LogPageRow
		err := l.store.read(ctx, func(t *tx) (err error) {
			pages, err = t.LogPage(ctx, gen.LogPageParams{AttemptID: r.AttemptID, OrgID: r.OrgID, FirstSeq: r.FirstSeq})
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(pages) == 0 {
			continue
		}
		lines, err := l.lines(pages[0].Format, pages[0].Lines)
		if err != nil {
			return nil, err
		}
		key := nimbus.LogKey{OrgID: r.OrgID, AttemptID: r.AttemptID}
		i, ok := at[key]
		if !ok || parts[i].Lines[len(parts[i].Lines)-1].Seq+1 != r.FirstSeq {
			i, at[key] = len(parts), len(parts)
			parts = append(parts, logs.Part{Key: key})
		}
		parts[i].Lines = append(parts[i].Lines, lines...)
	}
	return parts, nil
}

// Shipped implements logs.Outbox.
func (l *Logs) Shipped(ctx context.Context, id int64) error {
	if err := l.checkOutbox(); err != nil {
		return err
	}
	return l.store.write(ctx, func(t *tx) error { return t.ShipLogOutbox(ctx, id) })
}

// Lag implements logs.Outbox.
func (l *Logs) Lag(ctx context.Context) (bytes int64, oldest time.Time, err error) {
	if err := l.checkOutbox(); err != nil {
		return 0, oldest, err
	}
	row, err := gen.New(l.store.reader).LogOutboxLag(ctx)
	if err != nil || row.Oldest == 0 {
		return 0, oldest, interpret(err)
	}
	return row.TextBytes, fromMicros(row.Oldest), nil
}
