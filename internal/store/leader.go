package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/leader"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var _ leader.Store = (*Store)(nil)

// Lead implements leader.Store.
func (s *Store) Lead(ctx context.Context, name, holder string, lease time.Duration) (fence int64, leads bool, err error) {
	err = s.writeUnproved(ctx, func(t *tx) error {
		fence, err = t.Lead(ctx, gen.LeadParams{Name: name, Holder: holder, ExpiresAt: micros(t.now.Add(lease)), ExpiresAt_2: micros(t.now)})
		if errors.Is(err, sql.ErrNoRows) { // somebody else does
			fence = 0
			return nil
		}
		return err
	})
	return fence, fence > 0, err
}

// Resign implements leader.Store.
func (s *Store) Resign(ctx context.Context, name, holder string) error {
	return s.writeUnproved(ctx, func(t *tx) error { return t.Resign(ctx, gen.ResignParams{Name: name, Holder: holder}) })
}

// prove refuses a transaction whose term is over, and keeps the next leader
// from beginning before it ends.
func (t *tx) prove(ctx context.Context, term leader.Term) error {
	var fence, expires int64
	err := t.db.QueryRowContext(ctx, "SELECT fence, expires_at FROM leaders WHERE name = $1"+t.dialect.forShare(), term.Name).Scan(&fence, &expires)
	if err != nil {
		return fmt.Errorf("look who leads: %w", err)
	}
	if fence != term.Fence || expires <= micros(t.now) {
		return nimbus.Errorf(nimbus.CodeFenced, "another replica does the background work by now")
	}
	return nil
}
