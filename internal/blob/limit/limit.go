// Package limit bounds how much is asked of a blob store at once, and how often.
package limit

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Config is how much. The zero value is a good default.
type Config struct {
	// Calls are how many that are short may be under way at once. Default: 64.
	Calls int64
	// Writers are how many may write at once, and Readers how many may be open:
	// those last as long as their clients, and must not keep others from what is
	// short. Default: 16, 256.
	Writers int64
	Readers int64
	// PerSecond is how many calls may begin in a second; a second's worth may come
	// at once. Default: no limit.
	PerSecond int
	// Wait is how long a call waits for its turn. Default: 30 s.
	Wait time.Duration
}

// Defaults of a Config.
const (
	defaultCalls   = 64
	defaultWriters = 16
	defaultReaders = 256
	defaultWait    = 30 * time.Second
)

type limiter struct {
	cfg                     Config
	calls, writers, readers *semaphore.Weighted

	mu   sync.Mutex
	next time.Time // when the next call may begin, were all spread evenly
}

// New returns a store that asks no more of s than that. Who waits too long is told
// so, with code rate_limited. Who holds an open reader must not need another one
// to go on: all may be held so.
func New(s blob.Store, cfg Config) blob.Wrapper {
	if cfg.Calls <= 0 {
		cfg.Calls = defaultCalls
	}
	if cfg.Writers <= 0 {
		cfg.Writers = defaultWriters
	}
	if cfg.Readers <= 0 {
		cfg.Readers = defaultReaders
	}
	if cfg.Wait <= 0 {
		cfg.Wait = defaultWait
	}
	l := &limiter{
		cfg: cfg, calls: semaphore.NewWeighted(cfg.Calls), writers: semaphore.NewWeighted(cfg.Writers), readers: semaphore.NewWeighted(cfg.Readers),
	}
	return blob.Around(s, blob.Layer{Do: l.do, Opened: func(r io.ReadCloser) io.ReadCloser {
		return blob.Watched(r, nil, func() { l.readers.Release(1) })
	}})
}

func (l *limiter) do(ctx context.Context, c blob.Call, run func(context.Context) error) (err error) {
	places := l.calls
	switch {
	case c.Op.Opens():
		places = l.readers
	case c.Op.Writes():
		places = l.writers
	}
	if err := l.turn(ctx, places); err != nil {
		return err
	}
	opened := false
	defer func() { // also when run panics
		if !opened {
			places.Release(1)
		}
	}()
	err = run(ctx)
	opened = c.Op.Opens() && err == nil // its Close gives the place back
	return err
}

// turn waits for a place, and for the time to begin.
func (l *limiter) turn(ctx context.Context, places *semaphore.Weighted) error {
	within, cancel := context.WithTimeout(ctx, l.cfg.Wait)
	defer cancel()
	if err := places.Acquire(within, 1); err != nil {
		return l.late(ctx)
	}
	pause, ok := l.pause(within)
	if !ok {
		places.Release(1)
		return l.late(ctx)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-within.Done():
		places.Release(1)
		return l.late(ctx)
	}
}

// pause takes the next turn and tells how long it is until then. A turn that comes
// too late is not taken: those who do not wait for theirs would put off all others.
func (l *limiter) pause(ctx context.Context) (time.Duration, bool) {
	if l.cfg.PerSecond <= 0 {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	next := l.next
	if soonest := now.Add(-time.Second); next.Before(soonest) {
		next = soonest
	}
	next = next.Add(time.Second / time.Duration(l.cfg.PerSecond))
	if until, ok := ctx.Deadline(); ok && next.After(until) {
		return 0, false
	}
	l.next = next
	return next.Sub(now), true
}

func (l *limiter) late(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("wait for a place at the object store: %w", context.Cause(ctx))
	}
	return nimbus.Errorf(nimbus.CodeRateLimited, "the object store is busy: no place for %v", l.cfg.Wait).
		WithHint("try again; if that goes on, the operator may let more be asked of it at once")
}
