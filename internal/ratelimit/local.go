package ratelimit

import (
	"context"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// DefaultKeys is how many buckets a Local keeps: some megabytes.
const DefaultKeys = 1 << 16

// Local is a Limiter in the memory of this process. When it has all the buckets
// that it keeps, the one that was asked for longest ago goes: who calls all the
// time stays in its own, however many strangers come.
type Local struct {
	clock nimbus.Clock
	most  int

	mu      sync.Mutex
	buckets map[string]*bucket
	ring    bucket // of all buckets, the most recently asked for after it
}

type bucket struct {
	key           string
	paid          time.Duration // since 1970
	before, after *bucket
}

// NewLocal returns a limiter that keeps up to most buckets.
func NewLocal(clock nimbus.Clock, most int) *Local {
	l := &Local{clock: clock, most: max(most, 1), buckets: map[string]*bucket{}}
	l.ring.before, l.ring.after = &l.ring, &l.ring
	return l
}

// Take implements Limiter. It never fails.
func (l *Local) Take(_ context.Context, key string, r Rate) (wait time.Duration, _ error) {
	if r.Unlimited() {
		return 0, nil
	}
	now := time.Duration(l.clock.Now().UnixMicro()) * time.Microsecond
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(now)
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= l.most {
			l.drop(l.ring.before)
		}
		b = &bucket{key: key}
		l.buckets[key] = b
	} else {
		b.leave()
	}
	b.enter(&l.ring)
	b.paid, wait = Advance(b.paid, now, r.Interval(), r.Depth())
	return wait, nil
}

// Len is how many buckets are kept.
func (l *Local) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.buckets)
}

// forget drops buckets that are full again, which says as much as none; a few
// at a time, so that no call pays for all.
func (l *Local) forget(now time.Duration) {
	for range 2 {
		b := l.ring.before
		if b == &l.ring || b.paid > now {
			return
		}
		l.drop(b)
	}
}

func (l *Local) drop(b *bucket) {
	b.leave()
	delete(l.buckets, b.key)
}

func (b *bucket) leave() { b.before.after, b.after.before = b.after, b.before }

func (b *bucket) enter(ring *bucket) {
	b.before, b.after = ring, ring.after
	ring.after.before, ring.after = b, b
}
