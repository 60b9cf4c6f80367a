package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// LogBooks tell which logs a store may let go of, and which are too old.
type LogBooks struct{ store *Store }

// LogBooks returns them.
func (s *Store) LogBooks() LogBooks { return LogBooks{s} }

// Orgs returns the ids of up to limit orgs, removed ones too, that sort after one.
func (b LogBooks) Orgs(ctx context.Context, after string, limit int) (ids []string, err error) {
	err = b.store.read(ctx, func(t *tx) error {
		ids, err = t.OrgsAfter(ctx, gen.OrgsAfterParams{ID: after, Limit: int32(limit)})
		return err
	})
	return ids, err
}

// LogRetention is Store.LogRetention.
func (b LogBooks) LogRetention(ctx context.Context, orgID string) (days int32, own bool, err error) {
	return b.store.LogRetention(ctx, orgID)
}

// LogOver tells since when an attempt is over, zero for one that isn't, and whether
// its log is whole. Of an attempt that is in no book any more nothing will come.
func (b LogBooks) LogOver(ctx context.Context, key nimbus.LogKey) (since time.Time, whole bool, err error) {
	err = b.store.read(ctx, func(t *tx) error {
		row, err := t.Attempt(ctx, key.AttemptID)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			since, _ = nimbus.IDTime(nimbus.PrefixAttempt, key.AttemptID)
			return nil
		case err != nil || row.OrgID != key.OrgID || row.EndedAt == 0:
			return err
		}
		since, whole = fromMicros(row.EndedAt), row.LogComplete
		return nil
	})
	return since, whole, err
}
