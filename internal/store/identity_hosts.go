package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bearer"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// PutHostKey implements identity.HostStore. The host's row is held, so that it
// is not removed meanwhile.
func (s *Store) PutHostKey(ctx context.Context, hostID string, key []byte, joinHash string) error {
	return s.write(ctx, func(t *tx) error {
		var removed int64
		err := t.db.QueryRowContext(ctx, "SELECT removed_at FROM hosts WHERE id = $1"+t.dialect.forShare(), hostID).Scan(&removed)
		if errors.Is(err, sql.ErrNoRows) || err == nil && removed != 0 {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such host")
		}
		if err != nil {
			return err
		}
		n, err := t.InsertHostKey(ctx, gen.InsertHostKeyParams{HostID: hostID, PublicKey: key, JoinHash: joinHash, CreatedAt: micros(t.now)})
		if err != nil {
			return err
		}
		if n == 1 {
			return t.audit(ctx, nimbus.AuditEvent{Actor: "host:" + hostID, Action: "host.enroll", Target: hostID, Outcome: nimbus.AuditAllowed})
		}
		has, err := t.HostKey(ctx, hostID)
		if err == nil && !bytes.Equal(has.PublicKey, key) {
			return nimbus.Errorf(nimbus.CodeConflict, "the host has another key").
				WithHint("remove it with `nimbus hosts remove`, and join it anew")
		}
		return err
	})
}

// HostKey implements identity.HostStore.
func (s *Store) HostKey(ctx context.Context, hostID string) (key []byte, removed bool, err error) {
	err = s.read(ctx, func(t *tx) error {
		gone, err := t.HostGone(ctx, hostID)
		if removed = gone != 0; err != nil || removed {
			return err
		}
		row, err := t.HostKey(ctx, hostID)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		key = row.PublicKey
		return err
	})
	return key, removed, err
}

// JoinedHost implements identity.HostStore.
func (s *Store) JoinedHost(ctx context.Context, joinHash string) (hostID string, key []byte, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.HostKeyOfJoin(ctx, joinHash)
		hostID, key = row.HostID, row.PublicKey
		return err
	})
	return hostID, key, err
}

// OpenHostSession implements identity.HostStore. What numbers the session also
// holds the row of the key, which RemoveHost deletes before it revokes tokens:
// no session is left of a host that is removed meanwhile.
func (s *Store) OpenHostSession(ctx context.Context, n identity.NewHostSession) (out bearer.Session, err error) {
	err = s.write(ctx, func(t *tx) error {
		newer, err := t.NumberHostSession(ctx, gen.NumberHostSessionParams{HostID: n.HostID, Number: n.Number, TokenHash: n.TokenHash})
		if err != nil {
			return err
		}
		if newer == 0 {
			out, err = t.lastHostSession(ctx, n)
			return err
		}
		out = bearer.Session{Opened: true, Number: n.Number, ValidFor: n.ValidFor}
		superseded, err := t.supersede(ctx, n)
		if err != nil {
			return err
		}
		err = t.InsertHostSession(ctx, gen.InsertHostSessionParams{ID: n.TokenID, Subject: n.HostID, Hash: n.TokenHash,
			CreatedAt: micros(t.now), ExpiresAt: micros(t.now.Add(n.ValidFor))})
		if err != nil || !superseded {
			return err
		}
		return t.revoke(ctx, n.HostID) // replicas ask again, and hear when what they know ends
	})
	return out, err
}

// supersede ends what a host had before a new session, after the overlap, and
// tells whether there was anything.
func (t *tx) supersede(ctx context.Context, n identity.NewHostSession) (bool, error) {
	overlap := micros(t.now.Add(n.Overlap))
	dropped, err := t.DropHostSessions(ctx, gen.DropHostSessionsParams{Subject: n.HostID, ExpiresAt: overlap})
	if err != nil {
		return false, err
	}
	shortened, err := t.ShortenHostSessions(ctx, gen.ShortenHostSessionsParams{Subject: n.HostID, Until: overlap})
	return dropped+shortened > 0, err
}

// lastHostSession tells a host that asks again, having heard no answer, of the
// session that it has; one that asks for an old one hears what the last was.
func (t *tx) lastHostSession(ctx context.Context, n identity.NewHostSession) (bearer.Session, error) {
	has, err := t.HostKey(ctx, n.HostID)
	out := bearer.Session{Number: has.Number}
	if err != nil || has.Number != n.Number || has.TokenHash != n.TokenHash {
		return out, err
	}
	token, err := t.TokenByHash(ctx, n.TokenHash)
	if errors.Is(err, sql.ErrNoRows) {
		return out, nil
	}
	if left := fromMicros(token.ExpiresAt).Sub(t.now); token.State == string(identity.StateActive) && left > 0 {
		out.Opened, out.ValidFor = true, left
	}
	return out, err
}
