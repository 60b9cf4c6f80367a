// Package identity knows who calls: tokens, one-time logins, sessions, and the
// key that secrets at rest are sealed with.
package identity

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// How long tokens live.
const (
	DefaultJoinFor = time.Hour
	MaxJoinFor     = 24 * time.Hour
	loginFor       = 10 * time.Minute
	sessionFor     = 12 * time.Hour
	// keepExpired is how long an expired token is still told apart from an
	// unknown one.
	keepExpired = 7 * 24 * time.Hour
	// purgeInterval is how often expired ones are removed.
	purgeInterval = time.Hour
)

// Service issues and checks tokens, and keeps the directory of orgs, people and
// programs. Its methods are safe for concurrent use.
type Service struct {
	store Store
	clock nimbus.Clock
	known *known
}

// New returns the service.
func New(store Store, clock nimbus.Clock) *Service {
	return &Service{store: store, clock: clock, known: newKnown()}
}

// Name implements lifecycle.Service.
func (s *Service) Name() string { return "identity" }

// Run keeps what is known of tokens in step with the store, and removes expired
// ones, until ctx ends. It implements lifecycle.Service.
func (s *Service) Run(ctx context.Context, ready func()) error {
	ready()
	look, purge := time.NewTicker(lookInterval), time.NewTicker(purgeInterval)
	defer look.Stop()
	defer purge.Stop()
	_ = s.store.PurgeTokens(ctx, keepExpired) // tried again in an hour
	for {
		select {
		case <-look.C:
			_ = s.Refresh(ctx) // while it fails, each request asks the store
		case <-purge.C:
			_ = s.store.PurgeTokens(ctx, keepExpired)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) issue(ctx context.Context, r Record, e nimbus.AuditEvent) (token string, err error) {
	token = newToken(r.Kind)
	r.ID, r.Version = nimbus.NewID(nimbus.PrefixToken, s.clock.Now()), version
	r.Hash, r.State = hash(token), StateActive
	e.Target = r.ID
	return token, s.store.InsertToken(ctx, r, e)
}

// rootSubject is the subject of the administrator that every database has from
// its first start on, and who is no user.
const rootSubject = "admin"

// Root is who starts the platform: its administrator before there are users.
func Root() nimbus.Principal {
	return nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: rootSubject, Name: "administrator", Platform: true}
}

// IssueAdmin makes the administrator's token at the first start; created is
// false, and token empty, when there is or was one.
func (s *Service) IssueAdmin(ctx context.Context) (token string, created bool, err error) {
	n, err := s.store.CountTokens(ctx, KindAdmin)
	if err != nil || n > 0 {
		return "", false, err
	}
	token, err = s.issue(ctx, Record{Kind: KindAdmin, Subject: rootSubject, Name: "first start", CreatedBy: "system"},
		nimbus.AuditEvent{Actor: "system", Action: "token.create", Outcome: nimbus.AuditAllowed, Detail: map[string]string{"kind": string(KindAdmin)}})
	if nimbus.ErrorCode(err) == nimbus.CodeConflict {
		return "", false, nil // another replica was first
	}
	return token, err == nil, err
}

// IssueJoin makes a token that joins one host, once.
func (s *Service) IssueJoin(ctx context.Context, p nimbus.Principal, validFor time.Duration) (token string, expires time.Time, err error) {
	if validFor == 0 {
		validFor = DefaultJoinFor
	}
	if validFor < 0 || validFor > MaxJoinFor {
		return "", time.Time{}, nimbus.Errorf(nimbus.CodeInvalid, "a join token lives up to %s", MaxJoinFor)
	}
	token, err = s.issue(ctx, Record{Kind: KindJoin, Subject: "host", Parent: p.Maker(), ValidFor: validFor, CreatedBy: p.Actor()},
		done(p, "token.create", "", "kind", string(KindJoin), "with", p.TokenID))
	if err != nil {
		return "", time.Time{}, err
	}
	b, err := s.store.Bearer(ctx, hash(token))
	return token, b.ExpiresAt, err
}

// RedeemJoin uses a join token up.
func (s *Service) RedeemJoin(ctx context.Context, token string) error {
	return s.redeem(ctx, token, KindJoin, "make another with `nimbus hosts token`")
}

func (s *Service) redeem(ctx context.Context, token string, kind Kind, hint string) error {
	got, err := parse(token)
	if err != nil || got != kind {
		return refused().WithHint("%s", hint)
	}
	err = s.store.UseToken(ctx, hash(token))
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nimbus.Errorf(nimbus.CodeUnauthenticated, "this %s token was used, has expired, or never was", kind).WithHint("%s", hint)
	}
	return err
}

// IssueHost makes the token of a host that has joined.
func (s *Service) IssueHost(ctx context.Context, hostID string) (string, error) {
	return s.issue(ctx, Record{Kind: KindHost, Subject: hostID}, nimbus.AuditEvent{
		Actor: "host:" + hostID, Action: "token.create", Outcome: nimbus.AuditAllowed, Detail: map[string]string{"kind": string(KindHost)}})
}

// MintJob makes the token of an attempt. Who runs the attempt keeps the hash:
// the token works as long as Store.JobToken knows it.
func (s *Service) MintJob() (token, sum string) {
	token = newToken(KindJob)
	return token, hash(token)
}

func refused() *nimbus.Error {
	return nimbus.Errorf(nimbus.CodeUnauthenticated, "this token is not known")
}
