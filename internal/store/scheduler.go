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

var _ scheduler.Store = (*Store)(nil)

// View implements scheduler.Store.
func (s *Store) View(ctx context.Context, f func(scheduler.Reader) error) error {
	return s.read(ctx, func(t *tx) error { return f(schedulerTx{tx: t}) })
}

// Update implements scheduler.Store.
func (s *Store) Update(ctx context.Context, f func(scheduler.Tx) error) error {
	var flows map[string]*flowEntry
	err := s.write(ctx, func(t *tx) error {
		b := schedulerTx{tx: t, books: newBooks()}
		flows = b.books.flows
		if err := f(b); err != nil {
			return err
		}
		return b.end(ctx)
	})
	if err == nil && len(flows) > 0 {
		s.seen.add(flows)
	}
	return err
}

// LogStored implements scheduler.Store.
func (s *Store) LogStored(ctx context.Context, key nimbus.LogKey, lines int64) (jobID string, complete, changed bool, err error) {
	row, err := gen.New(s.writer).LogStored(ctx, gen.LogStoredParams{ID: key.AttemptID, OrgID: key.OrgID, LogStored: lines})
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, false, nil
	}
	return row.JobID, row.LogComplete, err == nil, interpret(err)
}

// schedulerTx is a transaction as the scheduler sees it. Its methods are in
// the files scheduler_*.go, by the tables that they are about.
type schedulerTx struct {
	tx    *tx
	books *books // nil where nothing may be changed
}

var _ scheduler.Tx = schedulerTx{}

// Now implements scheduler.Reader.
func (t schedulerTx) Now() time.Time { return t.tx.now }

// micros of the transaction's time.
func (t schedulerTx) nowMicros() int64 { return micros(t.tx.now) }
