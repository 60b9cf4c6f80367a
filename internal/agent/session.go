package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/bearer"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// session is the host's way to be known. It makes its tokens itself, keeps each
// on the disk before it tells the hash, and uses it once the control plane has
// said yes; so nothing that is lost on the way locks the host out. No clock of
// this machine decides anything: how long a token lasts is measured from when it
// was asked for, and one that was refused is replaced.
type session struct {
	file    string
	service nimbusv1connect.SessionServiceClient // opens: needs no token
	enroll  nimbusv1connect.SessionServiceClient // as the host
	log     *slog.Logger

	opening chan struct{} // holds one while a session is opened
	mu      sync.Mutex
	c       credential
	due     time.Time // when to open the next, on this process' clock
	// refusal is why none could be opened, and when that was.
	refusal   error
	refusedAt time.Time
}

const (
	// sessionAgain is when a session is tried again that could not be opened
	// while the one before lasts.
	sessionAgain = time.Minute
	// sessionLater is that where the control plane is older than sessions.
	sessionLater = time.Hour
	// sessionLeast bounds how often sessions are opened, whatever the control
	// plane says of their length, or asked for after a refusal.
	sessionLeast = 10 * time.Second
	// sessionTries bounds how often a number is corrected.
	sessionTries = 3
)

func newSession(file string, cfg Config) *session {
	s := &session{file: file, log: cfg.Log, opening: make(chan struct{}, 1)}
	s.service = nimbusv1connect.NewSessionServiceClient(cfg.HTTP, cfg.Server,
		connect.WithInterceptors(wire.Caller{Token: func() string { return "" }}), connect.WithReadMaxBytes(64<<10))
	s.enroll = nimbusv1connect.NewSessionServiceClient(cfg.HTTP, cfg.Server,
		connect.WithInterceptors(wire.Caller{Token: s.token}), connect.WithReadMaxBytes(64<<10))
	return s
}

func (s *session) set(c credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.c, s.due = c, time.Now().Add(jitter(sessionAgain))
}

func (s *session) get() credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

// token is that of the open session.
func (s *session) token() string { return s.get().Token }

func (s *session) put(c credential, next time.Duration) error {
	if err := c.save(s.file); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.c = c
	if next > 0 {
		s.due = time.Now().Add(next)
	}
	return nil
}

// run opens the next session at half the time of each.
func (s *session) run(ctx context.Context) error {
	for {
		s.mu.Lock()
		wait := time.Until(s.due)
		s.mu.Unlock()
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		if err := s.next(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "open the next session", "error", err, "hint", nimbus.ErrorHint(err))
			s.later(sessionAgain)
		}
	}
}

func (s *session) later(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = time.Now().Add(jitter(d))
}

// start opens the first session of a process, for as long as that takes. A
// token from before there were sessions goes on where the control plane has
// none.
func (s *session) start(ctx context.Context) error {
	var pause backoff
	for {
		err := s.exclusively(ctx, s.openNext)
		switch {
		case nimbus.ErrorCode(err) == nimbus.CodeUnsupported && s.token() != "":
			s.later(sessionLater)
			return nil
		case nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated && nimbus.ErrorHint(err) == "":
			return nimbus.Errorf(nimbus.CodeUnauthenticated, "%w", err).
				WithHint("to join anew, make a token with `nimbus hosts token` and start the agent with --join-token-file")
		case nimbus.ErrorCode(err) != nimbus.CodeUnsupported && !retryable(err), !pause.wait(ctx):
			return err
		}
		s.log.WarnContext(ctx, "open a session", "error", err, "hint", nimbus.ErrorHint(err))
	}
}

// next opens a session that is due, unless somebody else has by now.
func (s *session) next(ctx context.Context) error {
	return s.exclusively(ctx, func(ctx context.Context) error {
		s.mu.Lock()
		due := !time.Now().Before(s.due)
		s.mu.Unlock()
		if !due {
			return nil
		}
		return s.openNext(ctx)
	})
}

// renew opens a session because a token was refused. Of many who find that out
// at once, one does it. Codes: unauthenticated for a host that is not known any
// more, unavailable.
func (s *session) renew(ctx context.Context, refused string) error {
	return s.exclusively(ctx, func(ctx context.Context) error {
		s.mu.Lock()
		token, refusal, at := s.c.Token, s.refusal, s.refusedAt
		s.mu.Unlock()
		if token != refused {
			return nil
		}
		if refusal != nil && time.Since(at) < sessionLeast {
			return refusal
		}
		err := s.openNext(ctx)
		if nimbus.ErrorCode(err) == nimbus.CodeUnsupported { // a replica of before, in the middle of an upgrade
			err = nimbus.Errorf(nimbus.CodeUnavailable, "%w", err)
		}
		return err
	})
}

// exclusively opens sessions one at a time, each within a bounded time.
func (s *session) exclusively(ctx context.Context, open func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case s.opening <- struct{}{}:
	case <-ctx.Done():
		return nimbus.Errorf(nimbus.CodeUnavailable, "open a session: %w", ctx.Err())
	}
	defer func() { <-s.opening }()
	err := open(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusal = nil; nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated {
		s.refusal, s.refusedAt = err, time.Now()
	}
	return err
}

// openNext opens the next session; s.opening is held.
func (s *session) openNext(ctx context.Context) error {
	if err := s.enrollKey(ctx); err != nil {
		return err
	}
	for range sessionTries {
		c := s.get()
		if c.Next == "" {
			c.Next, c.Number = bearer.New(bearer.Host), c.Number+1
			if err := s.put(c, 0); err != nil {
				return err
			}
		}
		claim := bearer.Claim{HostID: c.HostID, Number: c.Number, TokenHash: bearer.Hash(c.Next)}
		asked := time.Now()
		answer, err := call(ctx, s.service.OpenSession, &nimbusv1.OpenSessionRequest{
			HostId: claim.HostID, Number: claim.Number, TokenSha256: claim.TokenHash, Signature: claim.Sign(c.privateKey()),
		})
		if err != nil {
			return fmt.Errorf("open a session: %w", err)
		}
		if !answer.GetOpened() {
			// The control plane knows of later ones: this disk is older than they.
			c.Next, c.Number = "", max(c.Number, answer.GetNumber())
			if err := s.put(c, 0); err != nil {
				return err
			}
			continue
		}
		c.Token, c.Next = c.Next, ""
		return s.put(c, jitter(max(answer.GetValidFor().AsDuration()/2-time.Since(asked), sessionLeast)))
	}
	return errors.New("open a session: somebody else opens sessions of this host")
}

// enrollKey gives a host its key that joined before hosts had them. Its token
// of before proves who it is.
func (s *session) enrollKey(ctx context.Context) error {
	c := s.get()
	if c.Enrolled {
		return nil
	}
	if c.Key == nil {
		c.Key = make([]byte, ed25519.SeedSize)
		rand.Read(c.Key) // never fails
		if err := s.put(c, 0); err != nil {
			return err
		}
	}
	if _, err := call(ctx, s.enroll.EnrollKey, &nimbusv1.EnrollKeyRequest{PublicKey: c.publicKey()}); err != nil {
		return fmt.Errorf("enroll the host's key: %w", err)
	}
	c.Enrolled = true
	return s.put(c, 0)
}

// WrapUnary implements connect.Interceptor: a call whose token is refused is
// made once more, with a new session.
func (s *session) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		token := s.token()
		answer, err := next(ctx, r)
		if token == "" || nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
			return answer, err
		}
		if err := s.renew(ctx, token); err != nil {
			return nil, err
		}
		return next(ctx, r)
	}
}

// WrapStreamingClient implements connect.Interceptor; no service streams.
func (s *session) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor; it is not for handlers.
func (s *session) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
