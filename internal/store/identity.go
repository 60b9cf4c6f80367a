package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var _ identity.Store = (*Store)(nil)

// told writes the audit event of a change, unless there is none to write.
func (t *tx) told(ctx context.Context, e nimbus.AuditEvent) error {
	if e.Action == "" {
		return nil
	}
	return t.audit(ctx, e)
}

// revoke tells replicas to forget what they know of subjects. The counter's row
// is locked until the transaction ends: it is taken as late as possible.
func (t *tx) revoke(ctx context.Context, subjects ...string) error {
	for _, subject := range subjects {
		seq, err := t.NextRevocation(ctx)
		if err != nil {
			return err
		}
		if err := t.InsertRevocation(ctx, gen.InsertRevocationParams{Seq: seq, Subject: subject, At: micros(t.now)}); err != nil {
			return err
		}
	}
	return nil
}

// InsertToken implements identity.Store. One that was made with another is
// refused once that is revoked.
func (s *Store) InsertToken(ctx context.Context, r identity.Record, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		var expires int64
		if r.ValidFor > 0 {
			expires = micros(t.now.Add(r.ValidFor))
		}
		expires, err := t.endsWith(ctx, r.Parent, expires)
		if err != nil {
			return err
		}
		err = t.InsertToken(ctx, gen.InsertTokenParams{
			ID: r.ID, Kind: string(r.Kind), OrgID: r.OrgID, Subject: r.Subject, Hash: r.Hash, State: string(r.State),
			CreatedAt: micros(t.now), ExpiresAt: expires, Version: r.Version, Name: r.Name, Role: string(r.Role), Scopes: scopeWords(r.Scopes),
			Parent: r.Parent, CreatedBy: r.CreatedBy,
		})
		return errors.Join(err, t.told(ctx, e))
	})
}

// maxGenerations bounds how often tokens are made with tokens that were made
// with tokens: to end the first takes a statement for each.
const maxGenerations = 16

// endsWith is when a token ends that is made with another: with that one at the
// latest. The other is held, so that it is not revoked meanwhile.
func (t *tx) endsWith(ctx context.Context, parent string, expires int64) (int64, error) {
	if parent == "" {
		return expires, nil
	}
	last, err := t.HoldToken(ctx, parent)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nimbus.Errorf(nimbus.CodeUnauthenticated, "the token that this would be made with was revoked")
	}
	if err != nil {
		return 0, err
	}
	for above, n := parent, 1; above != ""; n++ {
		if n > maxGenerations {
			return 0, nimbus.Errorf(nimbus.CodeForbidden, "the token that this would be made with is %d tokens away from the first", maxGenerations).
				WithHint("make it with one nearer to the first: `nimbus tokens --json` tells what each was made with")
		}
		if above, err = t.TokenParent(ctx, above); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
	}
	if last != 0 && (expires == 0 || last < expires) {
		return last, nil
	}
	return expires, nil
}

// revokeAll is how many tokens are told of one by one when they end with
// others; of more, replicas forget everybody.
const revokeAll = 100

// revokeOrphans ends what was made with tokens that are revoked, and what was
// made with that. Each generation takes a statement that begins when the one
// before is held: who made one meanwhile has ended by then, or is refused.
func (t *tx) revokeOrphans(ctx context.Context) (ids []string, err error) {
	for {
		generation, err := t.RevokeOrphans(ctx, micros(t.now))
		if err != nil || len(generation) == 0 {
			return ids, err
		}
		if ids = append(ids, generation...); len(ids) > revokeAll {
			ids = append(ids[:0], "")
		}
	}
}

func scopeWords(scopes []nimbus.Scope) string {
	words := make([]string, len(scopes))
	for i, s := range scopes {
		words[i] = string(s)
	}
	return strings.Join(words, " ")
}

func scopesOf(words string) (scopes []nimbus.Scope) {
	for word := range strings.FieldsSeq(words) {
		scopes = append(scopes, nimbus.Scope(word))
	}
	return scopes
}

// Bearer implements identity.Store.
func (s *Store) Bearer(ctx context.Context, hash string) (b identity.Bearer, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.TokenByHash(ctx, hash)
		if err != nil {
			return err
		}
		b.Record = identity.Record{
			ID: row.ID, Kind: identity.Kind(row.Kind), Version: row.Version, OrgID: row.OrgID, Subject: row.Subject, Hash: row.Hash,
			State: identity.State(row.State), Name: row.Name, Role: nimbus.Role(row.Role), Scopes: scopesOf(row.Scopes),
			Parent: row.Parent, CreatedBy: row.CreatedBy, CreatedAt: fromMicros(row.CreatedAt), ExpiresAt: fromMicros(row.ExpiresAt),
		}
		b.Now = t.now
		b.Owner, err = t.owner(ctx, row.Subject)
		return err
	})
	return b, err
}

// owner is a user or a service account, nil for what is neither.
func (t *tx) owner(ctx context.Context, subject string) (*identity.Owner, error) {
	switch {
	case strings.HasPrefix(subject, nimbus.PrefixUser+"_"):
		u, err := t.user(ctx, subject)
		if nimbus.ErrorCode(interpret(err)) == nimbus.CodeNotFound {
			return nil, nil
		}
		return &identity.Owner{Name: u.Name, Email: u.Email, Platform: u.Platform, Orgs: u.Orgs}, err
	case strings.HasPrefix(subject, nimbus.PrefixAccount+"_"):
		a, err := t.Account(ctx, subject)
		if nimbus.ErrorCode(interpret(err)) == nimbus.CodeNotFound {
			return nil, nil
		}
		return &identity.Owner{Name: a.Name, Orgs: []nimbus.Membership{{OrgID: a.OrgID, OrgName: a.OrgName, Role: nimbus.Role(a.Role)}}}, err
	}
	return nil, nil
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

// EndSession implements identity.Store.
func (s *Store) EndSession(ctx context.Context, hash string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		session, err := t.EndSession(ctx, hash)
		if nimbus.ErrorCode(interpret(err)) == nimbus.CodeNotFound {
			return nil // ended already
		}
		if err != nil {
			return err
		}
		e.OrgID, e.Target = session.OrgID, session.ID
		if err := t.told(ctx, e); err != nil {
			return err
		}
		return t.revoke(ctx, session.ID)
	})
}

// ListTokens implements identity.Store.
func (s *Store) ListTokens(ctx context.Context, orgID, subject string, page nimbus.PageRequest) (tokens []nimbus.Token, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.TokensPage(ctx, gen.TokensPageParams{OrgID: orgID, Subject: subject, After: page.Token, Most: int32(page.Size + 1)})
		for _, r := range rows {
			tokens = append(tokens, nimbus.Token{
				ID: r.ID, Kind: nimbus.PrincipalKind(r.Kind), OrgID: r.OrgID, Subject: r.Subject, Name: r.Name, Role: nimbus.Role(r.Role),
				Scopes: scopesOf(r.Scopes), CreatedBy: r.CreatedBy, CreatedAt: fromMicros(r.CreatedAt), ExpiresAt: fromMicros(r.ExpiresAt),
				LastUsedAt: fromMicros(r.LastUsedAt), RevokedAt: fromMicros(r.RevokedAt), Parent: r.Parent,
			})
		}
		return err
	})
	return tokens, err
}

// RevokeToken implements identity.Store.
func (s *Store) RevokeToken(ctx context.Context, orgID, subject, tokenID, keep string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.release(ctx, keep, tokenID); err != nil {
			return err
		}
		row, err := t.RevokeToken(ctx, gen.RevokeTokenParams{Now: micros(t.now), ID: tokenID, OrgID: orgID, Subject: subject})
		if nimbus.ErrorCode(interpret(err)) == nimbus.CodeNotFound {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such token that works")
		}
		if err != nil {
			return err
		}
		ended, err := t.revokeOrphans(ctx)
		if err != nil {
			return err
		}
		if row.Kind == string(identity.KindAdmin) {
			if err := t.platformStays(ctx, tokenID, ""); err != nil {
				return err
			}
		}
		e.Detail = map[string]string{"kind": row.Kind, "subject": row.Subject, "name": row.Name}
		if keep != "" {
			e.Detail["kept"] = keep
		}
		if err := t.told(ctx, e); err != nil {
			return err
		}
		return t.revoke(ctx, append(ended, tokenID)...)
	})
}

// release has a token stay when the one that it was made with ends.
func (t *tx) release(ctx context.Context, keep, parent string) error {
	if keep == "" {
		return nil
	}
	n, err := t.ReleaseToken(ctx, gen.ReleaseTokenParams{ID: keep, Parent: parent})
	if err == nil && n == 0 {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no token to keep that works and was made with this one")
	}
	return err
}

// platformStays refuses that nobody is left who administers the platform.
func (t *tx) platformStays(ctx context.Context, withoutToken, withoutUser string) error {
	tokens, err := t.OtherAdminTokens(ctx, gen.OtherAdminTokensParams{ID: withoutToken, ExpiresAt: micros(t.now)})
	if err != nil || tokens > 0 {
		return err
	}
	users, err := t.PlatformAdmins(ctx, withoutUser)
	if err == nil && users == 0 {
		return nimbus.Errorf(nimbus.CodeConflict, "nobody else administers the platform").
			WithHint("make another with it first, nimbus tokens create --platform, and keep that: nimbus tokens revoke --keep")
	}
	return err
}

// TouchTokens implements identity.Store. One statement a token: they are few in
// a minute.
func (s *Store) TouchTokens(ctx context.Context, ids []string) error {
	return s.write(ctx, func(t *tx) error {
		for _, id := range ids {
			if err := t.TouchToken(ctx, gen.TouchTokenParams{ID: id, LastUsedAt: micros(t.now), LastUsedAt_2: micros(t.now.Add(-time.Minute))}); err != nil {
				return err
			}
		}
		return nil
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

// Revocations implements identity.Store.
func (s *Store) Revocations(ctx context.Context, after int64, most int) (out []identity.Revocation, err error) {
	rows, err := gen.New(s.reader).Revocations(ctx, gen.RevocationsParams{Seq: after, Limit: int32(most)})
	for _, r := range rows {
		out = append(out, identity.Revocation{Seq: r.Seq, Subject: r.Subject})
	}
	return out, interpret(err)
}

// LastRevocation implements identity.Store.
func (s *Store) LastRevocation(ctx context.Context) (int64, error) {
	last, err := gen.New(s.reader).LastRevocation(ctx)
	return last, interpret(err)
}

// keepRevocations is how long revocations are kept for replicas to read.
const keepRevocations = time.Hour

// PurgeTokens implements identity.Store.
func (s *Store) PurgeTokens(ctx context.Context, keep time.Duration) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.DeleteExpiredTokens(ctx, micros(t.now.Add(-keep)))
		return errors.Join(err, t.DeleteRevocations(ctx, micros(t.now.Add(-keepRevocations))))
	})
}

// PutSecret implements identity.Store.
func (s *Store) PutSecret(ctx context.Context, orgID, name string, sealed []byte, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		err := t.PutSecret(ctx, gen.PutSecretParams{OrgID: orgID, Name: name, Sealed: sealed, UpdatedAt: micros(t.now)})
		return errors.Join(err, t.told(ctx, e))
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
