package ratelimit

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// failuresInRow open the breaker: one may be a hiccup.
	failuresInRow = 3
	// probePause is between tries whether a limiter that failed works again.
	probePause = time.Second
)

// Fallback is a limiter of replicas that goes on alone while what they share is
// gone: each replica then holds the same limits by itself. Calls do not wait for
// what is known to be gone; that it is back is found out by Run, which must run
// for that.
type Fallback struct {
	shared, local Limiter
	pause         time.Duration
	log           *slog.Logger

	failures atomic.Int32
	alone    atomic.Bool
	opened   chan struct{} // wakes Run
}

// NewFallback returns a limiter over shared, with local while that fails.
func NewFallback(shared, local Limiter, log *slog.Logger) *Fallback {
	return &Fallback{shared: shared, local: local, pause: probePause, log: log, opened: make(chan struct{}, 1)}
}

// Take implements Limiter. It fails only where local does.
func (f *Fallback) Take(ctx context.Context, key string, r Rate) (time.Duration, error) {
	if r.Unlimited() {
		return 0, nil
	}
	if f.alone.Load() {
		return f.local.Take(ctx, key, r)
	}
	wait, err := f.shared.Take(ctx, key, r)
	if err == nil {
		f.failures.Store(0)
		return wait, nil
	}
	if ctx.Err() == nil && f.failures.Add(1) >= failuresInRow && f.alone.CompareAndSwap(false, true) {
		f.log.WarnContext(ctx, "limits are held by this replica alone: Redis does not answer", "error", err)
		f.opened <- struct{}{}
	}
	return f.local.Take(ctx, key, r)
}

// Alone tells whether the shared limiter is gone.
func (f *Fallback) Alone() bool { return f.alone.Load() }

// Name implements lifecycle.Service.
func (f *Fallback) Name() string { return "limits" }

// Run implements lifecycle.Service: it finds out when the shared limiter is
// back, until ctx ends.
func (f *Fallback) Run(ctx context.Context, ready func()) error {
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.opened:
		}
		if !f.awaitShared(ctx) {
			return nil
		}
		f.failures.Store(0)
		f.alone.Store(false)
		f.log.InfoContext(ctx, "limits are held by all replicas together again")
	}
}

// awaitShared returns true once the shared limiter works, false when ctx ends.
func (f *Fallback) awaitShared(ctx context.Context) bool {
	tick := time.NewTicker(f.pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if _, err := f.shared.Take(ctx, "probe", Rate{PerSecond: 1, Burst: 1}); err == nil {
			return true
		}
	}
}
