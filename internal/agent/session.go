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
	opened  bool      // one was, by this process
	// refusal is why the control plane opens none: it does not know this host, or
	// not any more. It is asked again at a time, and after ever longer pauses.
	refusal error
	again   time.Time
	pause   time.Duration
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
	// refusedMost is the longest pause after a refusal: nobody but an operator ends
	// it, and each question is a denial in the ledger.
	refusedMost = 10 * time.Minute
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
	s.refusal, s.pause = nil, 0 // that was another's
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
			if s.lost() == nil {
				s.log.WarnContext(ctx, "open the next session", "error", err, "hint", nimbus.ErrorHint(err))
			}
			s.later(sessionAgain)
		}
	}
}

// lost is why the control plane refuses this host, nil while it does not.
func (s *session) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusal
}

// awaitQuestion waits until a control plane that refuses this host may be asked
// again. It returns false at once for one that does not refuse it.
func (s *session) awaitQuestion(ctx context.Context) bool {
	s.mu.Lock()
	refusal, wait := s.refusal, time.Until(s.again)
	s.mu.Unlock()
	if refusal == nil {
		return false
	}
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

func (s *session) later(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = time.Now().Add(jitter(d))
	if s.refusal != nil && s.due.Before(s.again) {
		s.due = s.again
	}
}

// start opens the first session of a process, for as long as that takes. A
// token from before there were sessions goes on where the control plane has
// none.
func (s *session) start(ctx context.Context) error {
	var pause backoff
	for {
		err := s.exclusively(ctx, s.open)
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
		return s.open(ctx)
	})
}

// renew opens a session because a token was refused. Of many who find that out
// at once, one does it. Codes: unauthenticated for a host that is not known any
// more, unavailable.
func (s *session) renew(ctx context.Context, refused string) error {
	return s.exclusively(ctx, func(ctx context.Context) error {
		s.mu.Lock()
		token := s.c.Token
		s.mu.Unlock()
		if token != refused {
			return nil
		}
		err := s.open(ctx)
		if nimbus.ErrorCode(err) == nimbus.CodeUnsupported { // a replica of before, in the middle of an upgrade
			err = nimbus.Errorf(nimbus.CodeUnavailable, "%w", err)
		}
		return err
	})
}

// exclusively opens sessions one at a time, each within a bounded time, and none
// in the pause after a refusal.
func (s *session) exclusively(ctx context.Context, open func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case s.opening <- struct{}{}:
	case <-ctx.Done():
		return nimbus.Errorf(nimbus.CodeUnavailable, "open a session: %w", ctx.Err())
	}
	defer func() { <-s.opening }()
	s.mu.Lock()
	refusal, again := s.refusal, s.again
	s.mu.Unlock()
	if refusal != nil && time.Now().Before(again) {
		return refusal
	}
	return open(ctx)
}

// open opens the next session, and heeds what the control plane says; s.opening
// is held.
func (s *session) open(ctx context.Context) error {
	err := s.openNext(ctx)
	s.heed(ctx, err)
	return err
}

// heed remembers a refusal, and says once that this host is known no more. It
// ends with the next session; an answer that says neither only lasts a pause.
func (s *session) heed(ctx context.Context, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.refusal
	switch {
	case err == nil:
		s.refusal, s.pause, s.opened = nil, 0, true
	case nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated:
		s.refusal, s.pause = err, min(max(2*s.pause, sessionLeast), refusedMost)
	}
	s.again = time.Now().Add(jitter(max(s.pause, sessionLeast)))
	switch {
	case before == nil && s.refusal != nil && s.opened: // the first of a process ends it with the error
		s.log.ErrorContext(ctx, "the control plane does not know this host any more: it gets no jobs until it has joined anew",
			"host", s.c.HostID, "error", err, "hint", nimbus.ErrorHint(err))
	case before != nil && err == nil:
		s.log.InfoContext(ctx, "the control plane knows this host again", "host", s.c.HostID)
	}
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
// made once more, with a new session. A host that is not known makes none.
func (s *session) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		token := s.token()
		if s.lost() != nil {
			if err := s.renew(ctx, token); err != nil {
				return nil, err
			}
			return next(ctx, r)
		}
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
