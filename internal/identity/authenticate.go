package identity

import (
	"context"
	"crypto/subtle"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Authenticate says who a bearer token stands for. Single-use tokens stand for
// nobody: they are redeemed. With an error the principal is whose token it was,
// where that is known: for the record, and for nothing else. Codes:
// unauthenticated.
func (s *Service) Authenticate(ctx context.Context, token string) (nimbus.Principal, error) {
	return s.authenticate(ctx, token, KindAdmin, KindUser, KindAccount, KindHost, KindJob)
}

// AuthenticateSession says who a browser's cookie stands for.
func (s *Service) AuthenticateSession(ctx context.Context, session string) (nimbus.Principal, error) {
	return s.authenticate(ctx, session, KindSession)
}

func (s *Service) authenticate(ctx context.Context, token string, allowed ...Kind) (nimbus.Principal, error) {
	kind, err := parse(token)
	if err != nil {
		return nimbus.Principal{}, refused().WithHint("%s", err.Error())
	}
	if !slices.Contains(allowed, kind) {
		return nimbus.Principal{}, refused()
	}
	sum := hash(token)
	if kind == KindJob {
		return s.authenticateJob(ctx, sum) // it dies with its job: nothing is remembered of it
	}
	now := s.clock.Now()
	if e, ok := s.known.find(sum, now); ok {
		return e.principal, nil
	}
	if !s.known.fresh(now) {
		b, err := s.look(ctx, kind, sum)
		return b.principal, err
	}
	return s.known.once(ctx, sum, now, func(ctx context.Context) (entry, error) { return s.look(ctx, kind, sum) })
}

// look asks the store about a token.
func (s *Service) look(ctx context.Context, kind Kind, sum string) (entry, error) {
	asked := s.clock.Now()
	b, err := s.store.Bearer(ctx, sum)
	switch {
	case nimbus.ErrorCode(err) == nimbus.CodeNotFound:
		return entry{}, refused()
	case err != nil:
		return entry{}, err
	case subtle.ConstantTimeCompare([]byte(b.Hash), []byte(sum)) != 1 || b.Kind != kind || b.Version != version:
		return entry{}, refused()
	case b.State != StateActive:
		return entry{principal: b.was()}, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token was revoked")
	case !b.ExpiresAt.IsZero() && !b.Now.Before(b.ExpiresAt):
		return entry{principal: b.was()}, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token has expired")
	}
	p, err := b.principal()
	if err != nil {
		return entry{principal: b.was()}, err
	}
	e := entry{principal: p, parent: b.Parent, until: asked.Add(maxAge)}
	if left := b.ExpiresAt.Sub(b.Now); !b.ExpiresAt.IsZero() && left < maxAge {
		e.until = asked.Add(left)
	}
	if kind == KindUser || kind == KindAccount || kind == KindAdmin {
		s.known.touch(b.ID)
	}
	return e, nil
}

// authenticateJob says which attempt a token is of. The books hold its hash,
// and find it by that: there is nothing left to compare.
func (s *Service) authenticateJob(ctx context.Context, sum string) (nimbus.Principal, error) {
	orgID, attemptID, err := s.store.JobToken(ctx, sum)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token is not of a job that runs now").
			WithHint("a job's token works from when it is proved that the job runs, and until it ends")
	}
	if err != nil {
		return nimbus.Principal{}, err
	}
	return nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: orgID, Subject: attemptID}, nil
}

// kindOf is the sort of caller that a token stands for.
var kindOf = map[Kind]nimbus.PrincipalKind{
	KindAdmin: nimbus.PrincipalAdmin, KindUser: nimbus.PrincipalUser, KindSession: nimbus.PrincipalUser, KindAccount: nimbus.PrincipalAccount,
	KindHost: nimbus.PrincipalHost,
}

// was is whose a token was that works no more, and of which org: one who may do
// nothing.
func (b Bearer) was() nimbus.Principal {
	p := nimbus.Principal{Kind: kindOf[b.Kind], TokenID: b.ID, Subject: b.Subject, OrgID: b.OrgID}
	switch {
	case b.Subject == rootSubject:
		p.Kind = nimbus.PrincipalAdmin
	case b.Kind == KindSession && b.OrgID == "" && b.Owner != nil && len(b.Owner.Orgs) > 0:
		p.OrgID = b.Owner.Orgs[0].OrgID
	}
	return p
}

// principal is who a token stands for: its owner, but for what the token does
// not let through.
func (b Bearer) principal() (nimbus.Principal, error) {
	p := nimbus.Principal{TokenID: b.ID, Subject: b.Subject, Scopes: b.Scopes, FromSession: b.Kind == KindSession, Parent: b.Parent}
	switch {
	case b.Kind == KindHost:
		p.Kind = nimbus.PrincipalHost
		return p, nil
	case b.Subject == rootSubject && (b.Kind == KindAdmin || b.Kind == KindSession):
		root := Root()
		p.Kind, p.Name, p.Platform = root.Kind, root.Name, root.Platform
		return p, nil
	case b.Owner == nil:
		return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "whose token this was is gone")
	}
	p.Kind = kindOf[b.Kind]
	p.Name, p.Email = b.Owner.Name, b.Owner.Email
	p.Platform = b.Owner.Platform && b.OrgID == ""
	for _, m := range b.Owner.Orgs {
		if b.OrgID != "" && m.OrgID != b.OrgID {
			continue
		}
		if b.Role != "" {
			m.Role = m.Role.Least(b.Role)
		}
		p.Orgs = append(p.Orgs, m)
	}
	switch {
	case b.Kind == KindAdmin && !p.Platform:
		return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "whose token this is does not administer the platform any more")
	case b.Kind != KindSession && b.Kind != KindAdmin && len(p.Orgs) == 0:
		return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "whose token this is has no role in its org any more")
	}
	return p, nil
}

// Times of what is known of tokens.
const (
	// lookInterval is how often the revocations are read.
	lookInterval = 500 * time.Millisecond
	// staleAfter is how long what is known may be believed after the last
	// reading began. It bounds how long a revoked token may go on working,
	// whatever happens to the readings: past it, each request asks the store.
	staleAfter = 2 * time.Second
	lookWithin = time.Second
	// maxAge is how long an answer is kept: who cuts a token's time short, rather
	// than revoke it, leaves it at least that. The revocations of an hour are in
	// the store, so that no reading misses one about an answer that is known.
	maxAge = 2 * time.Minute
	// touchInterval is how often it is written which tokens were used.
	touchInterval = time.Minute
)

// lookBatch is how many revocations one reading takes.
const lookBatch = 500

// Refresh forgets what was revoked since the last time, and writes which tokens
// were used. Run does it twice a second.
func (s *Service) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	for again := true; again; {
		began := s.clock.Now()
		after, started := s.known.position()
		if !started {
			last, err := s.store.LastRevocation(ctx)
			if err != nil {
				return err
			}
			s.known.heed(began, last, nil)
			break
		}
		revoked, err := s.store.Revocations(ctx, after, lookBatch)
		if err != nil {
			return err
		}
		if again = len(revoked) == lookBatch; again {
			began = time.Time{} // there is more: it isn't up to date by this
		}
		s.known.heed(began, after, revoked)
	}
	return s.flushUsed(ctx)
}

func (s *Service) flushUsed(ctx context.Context) error {
	ids := s.known.used(s.clock.Now())
	if len(ids) == 0 {
		return nil
	}
	return s.store.TouchTokens(ctx, ids)
}
