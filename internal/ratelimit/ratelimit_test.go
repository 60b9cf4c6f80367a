package ratelimit_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/ratelimit/ratelimittest"
)

func TestLocalConformance(t *testing.T) {
	t.Parallel()
	ratelimittest.Run(t, func(*testing.T) (a, b ratelimit.Limiter) {
		l := ratelimit.NewLocal(nimbus.SystemClock{}, ratelimit.DefaultKeys)
		return l, l
	})
}

// TestAdvance: whatever comes when, in no stretch of time is more let through
// than the burst and what comes in meanwhile; who waits as long as told gets
// one, and nobody is told to wait for a bucket that has one.
func TestAdvance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := ratelimit.Rate{PerSecond: rapid.Float64Range(ratelimit.MinPerSecond, ratelimit.MaxPerSecond).Draw(t, "rate"), Burst: rapid.IntRange(1, 50).Draw(t, "burst")}
		interval, depth := r.Interval(), r.Depth()
		now := time.Duration(rapid.Int64Range(0, 1<<60).Draw(t, "start"))
		var paid time.Duration
		var passed []time.Duration
		for range rapid.IntRange(1, 200).Draw(t, "calls") {
			now += time.Duration(rapid.Int64Range(0, int64(2*interval)).Draw(t, "pause"))
			next, wait := ratelimit.Advance(paid, now, interval, depth)
			if wait > 0 {
				if wait > interval {
					t.Fatalf("the wait %s is longer than the interval %s", wait, interval)
				}
				if _, again := ratelimit.Advance(next, now+wait, interval, depth); again != 0 {
					t.Fatalf("after the wait of %s there are %s more", wait, again)
				}
				if _, early := ratelimit.Advance(next, now+wait-1, interval, depth); early == 0 {
					t.Fatalf("the wait of %s is longer than need be", wait)
				}
			} else {
				passed = append(passed, now)
			}
			paid = next
		}
		for i := range passed {
			for j := i; j < len(passed); j++ {
				if most := int64(r.Burst) + int64((passed[j]-passed[i])/interval); int64(j-i+1) > most {
					t.Fatalf("%d passed in %s, at most %d may", j-i+1, passed[j]-passed[i], most)
				}
			}
		}
	})
}

// TestAdvanceSurvivesItsClock: a clock that steps back far makes nobody wait
// longer than an empty bucket does.
func TestAdvanceSurvivesItsClock(t *testing.T) {
	t.Parallel()
	r := ratelimit.Rate{PerSecond: 1, Burst: 5}
	if _, wait := ratelimit.Advance(24*time.Hour, time.Hour, r.Interval(), r.Depth()); wait != r.Interval() {
		t.Errorf("the wait is %s, want %s", wait, r.Interval())
	}
}

func TestParseRate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]ratelimit.Rate{
		"100/2000": {PerSecond: 100, Burst: 2000}, "0.5/1": {PerSecond: 0.5, Burst: 1}, "off": ratelimit.Unlimited(),
	} {
		got, err := ratelimit.ParseRate(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%q is read as %v (%s), %v", in, got, got, err)
		}
	}
	for _, in := range []string{"", "100", "/", "0/1", "-1/1", "1/0", "NaN/1", "Inf/1", "1e9/1", "1/10000000", "1/1/1", "on"} {
		if got, err := ratelimit.ParseRate(in); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%q is read as %v, %v", in, got, err)
		}
	}
}

// stopped is a clock that a test moves.
type stopped struct{ now time.Time }

func (c *stopped) Now() time.Time { return c.now }

// TestLocalIsBounded: strangers with ever new keys fill no memory, and do not
// help one who calls all the time to a new bucket.
func TestLocalIsBounded(t *testing.T) {
	t.Parallel()
	clock := &stopped{time.Unix(1e9, 0)}
	const most = 100
	l := ratelimit.NewLocal(clock, most)
	r := ratelimit.Rate{PerSecond: 1, Burst: 3}
	through := 0
	for i := range 10 * most {
		if wait, _ := l.Take(t.Context(), "busy", r); wait == 0 {
			through++
		}
		_, _ = l.Take(t.Context(), "stranger "+time.Duration(i).String(), r)
	}
	if got := l.Len(); got > most {
		t.Errorf("%d buckets are kept, at most %d may be", got, most)
	}
	if through != r.Burst {
		t.Errorf("who calls all the time got %d, want %d", through, r.Burst)
	}
	clock.now = clock.now.Add(time.Hour) // all are full again
	for range most {
		_, _ = l.Take(t.Context(), "one", r)
	}
	if got := l.Len(); got != 1 {
		t.Errorf("%d buckets are kept that say nothing", got-1)
	}
}

// broken is a shared limiter that can be told to fail.
type broken struct {
	ratelimit.Limiter
	gone  atomic.Bool
	calls atomic.Int64
}

func (b *broken) Take(ctx context.Context, key string, r ratelimit.Rate) (time.Duration, error) {
	b.calls.Add(1)
	if b.gone.Load() {
		<-time.After(100 * time.Millisecond)
		return 0, errors.New("gone")
	}
	return b.Limiter.Take(ctx, key, r)
}

// TestFallbackDoesNotWait: a dead shared limiter costs a few calls their time
// and then none; it is asked again only by the probe, and used once that works.
func TestFallbackDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &broken{Limiter: ratelimit.NewLocal(nimbus.SystemClock{}, 10)}
		f := ratelimit.NewFallback(shared, ratelimit.NewLocal(nimbus.SystemClock{}, 10), slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.Run(ctx, func() {}) }()
		shared.gone.Store(true)
		began := time.Now()
		r := ratelimit.Rate{PerSecond: 1, Burst: 10_000}
		for range 1000 {
			if wait, err := f.Take(ctx, "key", r); wait != 0 || err != nil {
				t.Fatalf("%s, %v", wait, err)
			}
		}
		if took := time.Since(began); took > 300*time.Millisecond || !f.Alone() {
			t.Errorf("1000 calls waited %s for what is gone (known: %t)", took, f.Alone())
		}
		if n := shared.calls.Load(); n != 3 {
			t.Errorf("what is gone was asked %d times", n)
		}
		shared.gone.Store(false)
		time.Sleep(3 * time.Second) // of the bubble's clock
		if f.Alone() {
			t.Error("it works again, and is not used")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestFallbackForgivesHiccups: single failures, and callers that are gone, are
// no reason to go on alone.
func TestFallbackForgivesHiccups(t *testing.T) {
	t.Parallel()
	shared := &broken{Limiter: ratelimit.NewLocal(nimbus.SystemClock{}, 10)}
	f := ratelimit.NewFallback(shared, ratelimit.NewLocal(nimbus.SystemClock{}, 10), slog.New(slog.DiscardHandler))
	r := ratelimit.Rate{PerSecond: 1, Burst: 100}
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 5 {
		shared.gone.Store(true)
		_, _ = f.Take(t.Context(), "key", r)
		for range 5 {
			_, _ = f.Take(gone, "key", r)
		}
		shared.gone.Store(false)
		_, _ = f.Take(t.Context(), "key", r)
	}
	if f.Alone() {
		t.Error("hiccups made it go on alone")
	}
}
