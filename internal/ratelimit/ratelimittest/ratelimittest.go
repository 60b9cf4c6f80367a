// Package ratelimittest is the suite that every limiter passes.
package ratelimittest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/ratelimit"
)

// slow is a rate that fills by nothing that a test could notice.
var slow = ratelimit.Rate{PerSecond: ratelimit.MinPerSecond, Burst: 10}

// Run checks a limiter. open gives two ends of one set of buckets, which may be
// the same; it ends them with the test.
func Run(t *testing.T, open func(t *testing.T) (a, b ratelimit.Limiter)) {
	for name, check := range map[string]func(t *testing.T, a, b ratelimit.Limiter){
		"a burst and no more":              burst,
		"keys are apart":                   apart,
		"a refusal takes nothing":          refusals,
		"what is told to wait for is true": waits,
		"many at once":                     concurrent,
		"no limit":                         unlimited,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := open(t)
			check(t, a, b)
		})
	}
}

func take(t *testing.T, l ratelimit.Limiter, key string, r ratelimit.Rate) time.Duration {
	t.Helper()
	wait, err := l.Take(t.Context(), key, r)
	if err != nil {
		t.Fatal(err)
	}
	return wait
}

// burst: the ends take from one bucket.
func burst(t *testing.T, a, b ratelimit.Limiter) {
	for i := range slow.Burst {
		end := a
		if i%2 == 1 {
			end = b
		}
		if wait := take(t, end, t.Name(), slow); wait != 0 {
			t.Fatalf("number %d has to wait %s", i+1, wait)
		}
	}
	for _, end := range []ratelimit.Limiter{a, b} {
		if wait := take(t, end, t.Name(), slow); wait <= 0 || wait > slow.Interval() {
			t.Errorf("one too many waits %s, want up to %s", wait, slow.Interval())
		}
	}
}

func apart(t *testing.T, a, b ratelimit.Limiter) {
	for range 3 * slow.Burst {
		take(t, a, t.Name()+"/flood", slow)
	}
	for i := range slow.Burst {
		if wait := take(t, b, t.Name()+"/quiet", slow); wait != 0 {
			t.Fatalf("number %d of another key has to wait %s", i+1, wait)
		}
	}
}

// refusals: who asks while it has to wait does not wait longer for it.
func refusals(t *testing.T, a, b ratelimit.Limiter) {
	for range slow.Burst {
		take(t, a, t.Name(), slow)
	}
	before := take(t, a, t.Name(), slow)
	for range 100 {
		if now := take(t, b, t.Name(), slow); now > before {
			t.Fatalf("asking in vain made the wait %s, from %s", now, before)
		}
	}
}

// waits: after the wait that was told there is one.
func waits(t *testing.T, a, _ ratelimit.Limiter) {
	r := ratelimit.Rate{PerSecond: 20, Burst: 1}
	for range 3 {
		for {
			wait := take(t, a, t.Name(), r)
			if wait == 0 {
				break
			}
			if wait > r.Interval() {
				t.Fatalf("the wait is %s, longer than the %s in which there is one more", wait, r.Interval())
			}
			<-time.After(wait)
		}
	}
}

func concurrent(t *testing.T, a, b ratelimit.Limiter) {
	var got atomic.Int64
	var running sync.WaitGroup
	for i := range 16 {
		running.Go(func() {
			end := a
			if i%2 == 1 {
				end = b
			}
			for range slow.Burst {
				wait, err := end.Take(t.Context(), t.Name(), slow)
				if err != nil {
					t.Error(err)
				} else if wait == 0 {
					got.Add(1)
				}
			}
		})
	}
	running.Wait()
	if got.Load() != int64(slow.Burst) {
		t.Errorf("%d got one of %d", got.Load(), slow.Burst)
	}
}

func unlimited(t *testing.T, a, _ ratelimit.Limiter) {
	for i := range 1000 {
		if wait := take(t, a, fmt.Sprint(t.Name(), i%2), ratelimit.Unlimited()); wait != 0 {
			t.Fatalf("number %d has to wait", i)
		}
	}
}
