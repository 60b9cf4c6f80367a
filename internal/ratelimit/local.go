package ratelimit

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// DefaultKeys is how many buckets a Local keeps: some megabytes.
const DefaultKeys = 1 << 16

// Local is a Limiter in the memory of this process. When it has all the buckets
// that it keeps, the one that was asked for longest ago goes, which is a full
// one before long: who calls all the time stays in it.
type Local struct {
	clock nimbus.Clock
	most  int

	mu      sync.Mutex
	buckets map[string]*list.Element
	recent  *list.List // of *bucket, the most recently asked for first
}

type bucket struct {
	key  string
	paid time.Duration // since 1970
}

// NewLocal returns a limiter that keeps up to most buckets.
func NewLocal(clock nimbus.Clock, most int) *Local {
	return &Local{clock: clock, most: max(most, 1), buckets: map[string]*list.Element{}, recent: list.New()}
}

// Take implements Limiter. It never fails.
func (l *Local) Take(_ context.Context, key string, r Rate) (time.Duration, error) {
	if r.Unlimited() {
		return 0, nil
	}
	now := time.Duration(l.clock.Now().UnixMicro()) * time.Microsecond
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(now)
	e := l.buckets[key]
	if e == nil {
		if l.recent.Len() >= l.most {
			l.drop(l.recent.Back())
		}
		e = l.recent.PushFront(&bucket{key: key})
		l.buckets[key] = e
	} else {
		l.recent.MoveToFront(e)
	}
	b := e.Value.(*bucket) //nolint:forcetypeassert // nothing else is in the list
	var wait time.Duration
	b.paid, wait = Advance(b.paid, now, r.Interval(), r.Depth())
	return wait, nil
}

// Len is how many buckets are kept.
func (l *Local) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent.Len()
}

// forget drops buckets that are full again, which says as much as none; a few
// at a time, so that no call pays for all.
func (l *Local) forget(now time.Duration) {
	for range 2 {
		e := l.recent.Back()
		if e == nil || e.Value.(*bucket).paid > now { //nolint:forcetypeassert // see Take
			return
		}
		l.drop(e)
	}
}

func (l *Local) drop(e *list.Element) {
	l.recent.Remove(e)
	delete(l.buckets, e.Value.(*bucket).key) //nolint:forcetypeassert // see Take
}
