package store

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var _ identity.Store = (*Store)(nil)

// InsertToken implements identity.Store.
func (s *Store) InsertToken(ctx context.Context, r identity.Record) error {
	return s.write(ctx, func(t *tx) error {
		var expires int64
		if r.ValidFor > 0 {
			expires = micros(t.now.Add(r.ValidFor))
		}
		return t.InsertToken(ctx, gen.InsertTokenParams{
			ID: r.ID, Kind: string(r.Kind), OrgID: r.OrgID, Subject: r.Subject, Hash: r.Hash, State: string(r.State),
			CreatedAt: micros(t.now), ExpiresAt: expires,
		})
	})
}

// Token implements identity.Store.
func (s *Store) Token(ctx context.Context, hash string) (r identity.Record, now time.Time, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.TokenByHash(ctx, hash)
		if err != nil {
			return err
		}
		r = identity.Record{
			ID: row.ID, Kind: identity.Kind(row.Kind), OrgID: row.OrgID, Subject: row.Subject, Hash: row.Hash,
			State: identity.State(row.State), CreatedAt: fromMicros(row.CreatedAt), ExpiresAt: fromMicros(row.ExpiresAt),
		}
		now = t.now
		return nil
	})
	return r, now, err
}

// UseToken implements identity.Store.
func (s *Store) UseToken(ctx context.Context, hash string) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.UseToken(ctx, gen.UseTokenParams{Hash: hash, ExpiresAt: micros(t.now)})
		if err == nil && n == 0 {
			return nimbus.Errorf(nimbus.CodeNotFound, "no token to use")
		}
		return err
	})
}

// MoveTokens implements identity.Store.
func (s *Store) MoveTokens(ctx context.Context, kind identity.Kind, subject string, from, to identity.State) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.MoveTokens(ctx, gen.MoveTokensParams{NewState: string(to), Kind: string(kind), Subject: subject, OldState: string(from)})
		return err
	})
}

// CountTokens implements identity.Store.
func (s *Store) CountTokens(ctx context.Context, kind identity.Kind) (n int64, err error) {
	err = s.read(ctx, func(t *tx) error {
		n, err = t.CountTokens(ctx, string(kind))
		return err
	})
	return n, err
}

// PurgeTokens implements identity.Store.
func (s *Store) PurgeTokens(ctx context.Context, keep time.Duration) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.DeleteExpiredTokens(ctx, micros(t.now.Add(-keep)))
		return err
	})
}

// PutSecret implements identity.Store.
func (s *Store) PutSecret(ctx context.Context, orgID, name string, sealed []byte) error {
	return s.write(ctx, func(t *tx) error {
		return t.PutSecret(ctx, gen.PutSecretParams{OrgID: orgID, Name: name, Sealed: sealed, UpdatedAt: micros(t.now)})
	})
}

// Secret implements identity.Store.
func (s *Store) Secret(ctx context.Context, orgID, name string) (sealed []byte, err error) {
	err = s.read(ctx, func(t *tx) error {
		sealed, err = t.Secret(ctx, gen.SecretParams{OrgID: orgID, Name: name})
		return err
	})
	return sealed, err
}
