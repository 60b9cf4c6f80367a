// Package identity knows who calls: tokens, one-time logins, sessions, and the
// key that secrets at rest are sealed with.
package identity

import (
	"context"
	"crypto/subtle"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// State is whether a token works.
type State string

// The states. A single-use token is used once.
const (
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
	// JobToken is the attempt that a job's token is of, while it is proved to
	// run its job. Codes: not_found.
	JobToken(ctx context.Context, hash string) (orgID, attemptID string, err error)
	CountTokens(ctx context.Context, kind Kind) (int64, error)
	// PurgeTokens removes those that expired more than keep ago.
	PurgeTokens(ctx context.Context, keep time.Duration) error
	PutSecret(ctx context.Context, orgID, name string, sealed []byte) error
	// Secret returns a sealed secret. Codes: not_found.
	Secret(ctx context.Context, orgID, name string) ([]byte, error)
	// SecretNames are the names of an org's secrets.
	SecretNames(ctx context.Context, orgID string) ([]SecretName, error)
	// DeleteSecret forgets a secret. Codes: not_found.
	DeleteSecret(ctx context.Context, orgID, name string) error
}

// SecretName is a secret that is kept, and since when it is as it is.
type SecretName struct {
	Name      string
	ChangedAt time.Time
}

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

// MintJob makes the token of an attempt. Who runs the attempt keeps the hash:
// the token works as long as Store.JobToken knows it.
func (s *Service) MintJob() (token, sum string) {
	token = newToken(KindJob)
	return token, hash(token)
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
	if kind == KindJob && slices.Contains(allowed, KindJob) {
		return s.authenticateJob(ctx, sum)
	}
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
		case r.State != StateActive:
			return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token was revoked")
		case !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt):
			return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "this token has expired")
		}
		return principal(r), nil
	}
	return nimbus.Principal{}, refused()
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

func principal(r Record) nimbus.Principal {
	p := nimbus.Principal{TokenID: r.ID, OrgID: r.OrgID, Subject: r.Subject}
	switch r.Kind {
	case KindAdmin, KindSession:
		p.Kind = nimbus.PrincipalAdmin
	case KindHost:
		p.Kind = nimbus.PrincipalHost
	}
	return p
}

func refused() *nimbus.Error {
	return nimbus.Errorf(nimbus.CodeUnauthenticated, "this token is not known")
}
