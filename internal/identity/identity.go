// Package identity knows who calls: tokens, one-time logins, sessions, and the
// key that secrets at rest are sealed with.
package identity

import (
	"context"
	"crypto/subtle"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// State is whether a token works.
type State string

// The states. A job's token is inert until what runs is proved; a single-use
// token is used once.
const (
	StateInert   State = "inert"
	StateActive  State = "active"
	StateUsed    State = "used"
	StateRevoked State = "revoked"
)

// Record is what is kept of a token: everything but the token.
type Record struct {
	ID        string
	Kind      Kind
	OrgID     string // "" for the platform's own
	Subject   string
	Hash      string
	State     State
	ValidFor  time.Duration // 0: for ever
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

// Store keeps tokens and sealed secrets. Times are its own clock.
type Store interface {
	InsertToken(ctx context.Context, r Record) error
	// Token finds a token by its hash, and tells the time. Codes: not_found.
	Token(ctx context.Context, hash string) (r Record, now time.Time, err error)
	// UseToken makes an active, unexpired token used. Of two that try at once
	// one succeeds. Codes: not_found.
	UseToken(ctx context.Context, hash string) error
	// MoveTokens changes the state of all tokens of a subject that are in one.
	MoveTokens(ctx context.Context, kind Kind, subject string, from, to State) error
	CountTokens(ctx context.Context, kind Kind) (int64, error)
	// PurgeTokens removes those that expired more than keep ago.
	PurgeTokens(ctx context.Context, keep time.Duration) error
	PutSecret(ctx context.Context, orgID, name string, sealed []byte) error
	// Secret returns a sealed secret. Codes: not_found.
	Secret(ctx context.Context, orgID, name string) ([]byte, error)
}

// How long tokens live.
const (
	DefaultJoinFor = time.Hour
	MaxJoinFor     = 24 * time.Hour
	loginFor       = 10 * time.Minute
	sessionFor     = 12 * time.Hour
	jobFor         = nimbus.MaxTimeout + 24*time.Hour
	// keepExpired is how long an expired token is still told apart from an
	// unknown one.
	keepExpired = 7 * 24 * time.Hour
	// purgeInterval is how often expired ones are removed.
	purgeInterval = time.Hour
)

// Service issues and checks tokens. Its methods are safe for concurrent use.
type Service struct {
	store Store
	clock nimbus.Clock
}

// New returns the service.
func New(store Store, clock nimbus.Clock) *Service { return &Service{store: store, clock: clock} }

// Name implements lifecycle.Service.
func (s *Service) Name() string { return "identity" }

// Run removes expired tokens until ctx ends. It implements lifecycle.Service.
func (s *Service) Run(ctx context.Context, ready func()) error {
	ready()
	ticker := time.NewTicker(purgeInterval)
	defer ticker.Stop()
	for {
		_ = s.store.PurgeTokens(ctx, keepExpired) // tried again in an hour
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) issue(ctx context.Context, r Record) (token string, err error) {
	token = newToken(r.Kind)
	r.ID = nimbus.NewID(nimbus.PrefixToken, s.clock.Now())
	r.Hash = hash(token)
	return token, s.store.InsertToken(ctx, r)
}

// IssueAdmin makes the administrator's token at the first start; created is
// false, and token empty, when there is one.
func (s *Service) IssueAdmin(ctx context.Context) (token string, created bool, err error) {
	n, err := s.store.CountTokens(ctx, KindAdmin)
	if err != nil || n > 0 {
		return "", false, err
	}
	token, err = s.issue(ctx, Record{Kind: KindAdmin, Subject: "admin", State: StateActive})
	return token, err == nil, err
}

// IssueJoin makes a token that joins one host, once.
func (s *Service) IssueJoin(ctx context.Context, validFor time.Duration) (token string, expires time.Time, err error) {
	if validFor == 0 {
		validFor = DefaultJoinFor
	}
	if validFor < 0 || validFor > MaxJoinFor {
		return "", time.Time{}, nimbus.Errorf(nimbus.CodeInvalid, "a join token lives up to %s", MaxJoinFor)
	}
	token, err = s.issue(ctx, Record{Kind: KindJoin, Subject: "host", State: StateActive, ValidFor: validFor})
	if err != nil {
		return "", time.Time{}, err
	}
	r, _, err := s.store.Token(ctx, hash(token))
	return token, r.ExpiresAt, err
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
	return s.issue(ctx, Record{Kind: KindHost, Subject: hostID, State: StateActive})
}

// IssueJob makes an inert token of an attempt.
func (s *Service) IssueJob(ctx context.Context, orgID, attemptID string) (string, error) {
	return s.issue(ctx, Record{Kind: KindJob, OrgID: orgID, Subject: attemptID, State: StateInert, ValidFor: jobFor})
}

// ActivateJob makes an attempt's token work.
func (s *Service) ActivateJob(ctx context.Context, attemptID string) error {
	return s.store.MoveTokens(ctx, KindJob, attemptID, StateInert, StateActive)
}

// RevokeJob ends an attempt's token, whatever its state.
func (s *Service) RevokeJob(ctx context.Context, attemptID string) error {
	for _, from := range []State{StateInert, StateActive} {
		if err := s.store.MoveTokens(ctx, KindJob, attemptID, from, StateRevoked); err != nil {
			return err
		}
	}
	return nil
}

// CreateLogin makes a code that signs one browser in, once.
func (s *Service) CreateLogin(ctx context.Context) (code string, err error) {
	return s.issue(ctx, Record{Kind: KindLogin, Subject: "admin", State: StateActive, ValidFor: loginFor})
}

// RedeemLogin trades a code for a session.
func (s *Service) RedeemLogin(ctx context.Context, code string) (session string, validFor time.Duration, err error) {
	if err := s.redeem(ctx, code, KindLogin, "make another with `nimbus login`"); err != nil {
		return "", 0, err
	}
	session, err = s.issue(ctx, Record{Kind: KindSession, Subject: "admin", State: StateActive, ValidFor: sessionFor})
	return session, sessionFor, err
}

// EndSession signs a browser out.
func (s *Service) EndSession(ctx context.Context, session string) error {
	if kind, err := parse(session); err != nil || kind != KindSession {
		return refused()
	}
	err := s.store.UseToken(ctx, hash(session))
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nil // ended already
	}
	return err
}

// Authenticate says who a bearer token stands for. Single-use tokens stand for
// nobody: they are redeemed. Codes: unauthenticated.
func (s *Service) Authenticate(ctx context.Context, token string) (nimbus.Principal, error) {
	return s.authenticate(ctx, token, KindAdmin, KindHost, KindJob)
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
	sum := hash(token)
	r, now, err := s.store.Token(ctx, sum)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nimbus.Principal{}, refused()
	}
	if err != nil {
		return nimbus.Principal{}, err
	}
	if subtle.ConstantTimeCompare([]byte(r.Hash), []byte(sum)) != 1 || r.Kind != kind {
		return nimbus.Principal{}, refused()
	}
	for _, k := range allowed {
		if k != kind {
			continue
		}
		switch {
		case r.State == StateInert:
			return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token is inert until it is proved what its job runs on")
		case r.State != StateActive:
			return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token was revoked")
		case !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt):
			return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token has expired")
		}
		return principal(r), nil
	}
	return nimbus.Principal{}, refused()
}

func principal(r Record) nimbus.Principal {
	p := nimbus.Principal{TokenID: r.ID, OrgID: r.OrgID, Subject: r.Subject}
	switch r.Kind {
	case KindAdmin, KindSession:
		p.Kind = nimbus.PrincipalAdmin
	case KindHost:
		p.Kind = nimbus.PrincipalHost
	case KindJob:
		p.Kind = nimbus.PrincipalJob
	}
	return p
}

func refused() *nimbus.Error {
	return nimbus.Errorf(nimbus.CodeUnauthenticated, "this token is not known")
}
