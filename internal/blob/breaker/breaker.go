// Package breaker keeps calls from a blob store that is known to be away, so that
// nobody waits for it, and finds out when it is back.
//
// The states are sony/gobreaker's: a small library without dependencies, whose
// generations get right what own counters rarely do, that the late failure of a
// call from before must not open what has closed since. What counts as a failure
// is decided here.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Config is when a breaker opens. The zero value is a good default, but for Log.
type Config struct {
	// Failures in a row open it. Default: 3.
	Failures uint32
	// Pause is how long it stays open before one call may try. Default: 5 s.
	Pause time.Duration
	// Probe tells, in a short time, whether the store is there. Default: it is
	// asked for a blob that need not be there.
	Probe func(context.Context) error
	Log   *slog.Logger // required
}

// Defaults of a Config.
const (
	defaultFailures = 3
	defaultPause    = 5 * time.Second
)

// Store is a blob store behind a breaker.
type Store struct {
	blob.Wrapper

	cfg   Config
	state *gobreaker.TwoStepCircuitBreaker[struct{}]
	last  atomic.Pointer[outage]
}

// outage is a failure. There was one wherever the breaker is not closed.
type outage struct {
	at  time.Time
	err error
}

// New returns a store whose calls fail at once, with code unavailable, while s is
// known to be away.
func New(s blob.Store, cfg Config) *Store {
	if cfg.Failures == 0 {
		cfg.Failures = defaultFailures
	}
	if cfg.Pause <= 0 {
		cfg.Pause = defaultPause
	}
	if cfg.Probe == nil {
		cfg.Probe = func(ctx context.Context) error {
			_, err := s.Stat(ctx, "probe")
			return err
		}
	}
	b := &Store{cfg: cfg}
	b.Wrapper = blob.Around(s, blob.Layer{Do: b.do})
	b.state = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     cfg.Pause,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= cfg.Failures },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNoWord) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case to == gobreaker.StateClosed:
				cfg.Log.Info("the object store is back")
			case from == gobreaker.StateClosed:
				cfg.Log.Warn("the object store is away: calls of it fail at once until it is back", "error", b.last.Load().err)
			}
		},
	})
	return b
}

// errNoWord is the outcome of a call that tells nothing of the store: its caller
// gave up, its source failed, it was refused before the store was asked.
var errNoWord = errors.New("no word of the store")

// outcome is what a call tells of the store: nil that it answers, errNoWord, or
// why it is taken for away.
func outcome(op blob.Op, err error) error {
	switch code := nimbus.ErrorCode(err); {
	case err == nil, code == nimbus.CodeNotFound:
		return nil
	case code == nimbus.CodeUnavailable:
		return err
	case errors.Is(err, context.DeadlineExceeded) && !op.Writes(): // a write may have waited for its source
		return err
	}
	return errNoWord
}

func (s *Store) do(ctx context.Context, c blob.Call, run func(context.Context) error) error {
	// One call alone may try whether the store is back. An upload would take its
	// time for that, while all others are refused: something short tries first.
	if c.Op.Writes() && s.state.State() == gobreaker.StateHalfOpen {
		if err := s.Check(ctx); err != nil {
			return err
		}
	}
	return s.guard(c.Op, func() error { return run(ctx) })
}

// guard runs what the breaker lets pass, and tells it the outcome.
func (s *Store) guard(op blob.Op, run func() error) error {
	done, err := s.state.Allow()
	if err != nil {
		return s.refusal()
	}
	told := errNoWord // also when run panics
	defer func() {
		if told != nil && !errors.Is(told, errNoWord) {
			s.last.Store(&outage{at: time.Now(), err: told})
		}
		done(told)
	}()
	err = run()
	told = outcome(op, err)
	return err
}

// refusal is what callers get while the store is away.
func (s *Store) refusal() error {
	last := s.last.Load()
	return fmt.Errorf("%w: %w", &nimbus.Error{ // the cause is for logs alone
		Code: nimbus.CodeUnavailable, Message: fmt.Sprintf("the object store is away, it last failed %v ago", time.Since(last.at).Round(time.Second)),
		Hint: nimbus.ErrorHint(last.err), RetryAfter: s.cfg.Pause,
	}, last.err)
}

// State is where a breaker is.
type State string

// The states. While half-open one call tries whether the store is back.
const (
	Closed   State = "closed"
	HalfOpen State = "half-open"
	Open     State = "open"
)

// State returns where it is now.
func (s *Store) State() State { return State(s.state.State().String()) }

// Check asks the store whether it is there, unless it is known to be away. Codes:
// unavailable.
func (s *Store) Check(ctx context.Context) error {
	return s.guard(blob.OpStat, func() error {
		err := s.cfg.Probe(ctx)
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound { // which is an answer
			return nil
		}
		return err
	})
}
