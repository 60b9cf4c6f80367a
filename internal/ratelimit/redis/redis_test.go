package redis_test

import (
	"log/slog"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/ratelimit/ratelimittest"
	"github.com/nimbus-ci/nimbus/internal/ratelimit/redis"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// patience is for a machine that is busy: a real Redis answers, if late.
const patience = 30 * time.Second

func open(t *testing.T, url string) *redis.Limiter {
	t.Helper()
	l, err := redis.Open(url, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestConformance(t *testing.T) {
	t.Parallel()
	r := testenv.Redis(t)
	ratelimittest.Run(t, func(t *testing.T) (a, b ratelimit.Limiter) { return open(t, r.URL), open(t, r.URL) })
}

// TestBucketsAreForgotten: one that is full again leaves nothing in Redis, and
// one that is not goes by itself.
func TestBucketsAreForgotten(t *testing.T) {
	t.Parallel()
	r := testenv.Redis(t)
	l := open(t, r.URL)
	rate := ratelimit.Rate{PerSecond: 1, Burst: 1000}
	if _, err := l.Take(t.Context(), "org", rate); err != nil {
		t.Fatal(err)
	}
	options, err := goredis.ParseURL(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := goredis.NewClient(options)
	defer client.Close()
	left, err := client.PTTL(t.Context(), "nimbus:limit:org").Result()
	// -2 is a key that is gone: the machine may have slept past it.
	if err != nil || left == -1 || left > rate.Interval()+2*time.Millisecond {
		t.Errorf("the bucket goes in %s, %v; want within %s", left, err, rate.Interval())
	}
}

// TestLimitsHoldWithoutRedis: Redis is killed while calls go on. None fails,
// each replica holds the limit by itself, none waits for Redis once it is known
// to be gone, and when it is back both take from one bucket again.
func TestLimitsHoldWithoutRedis(t *testing.T) {
	t.Parallel()
	r := testenv.Redis(t)
	rate := ratelimit.Rate{PerSecond: ratelimit.MinPerSecond, Burst: 20}
	replicas := []*ratelimit.Fallback{start(t, r.URL), start(t, r.URL)}
	// Together they get what there is.
	if got := takeAll(t, replicas, "before", rate); got != rate.Burst {
		t.Fatalf("with Redis %d were taken, want %d", got, rate.Burst)
	}
	r.Stop()
	for i, f := range replicas {
		if got := takeAll(t, []*ratelimit.Fallback{f}, "during", rate); got != rate.Burst {
			t.Errorf("without Redis replica %d let %d through, want %d", i, got, rate.Burst)
		}
		if !f.Alone() {
			t.Errorf("replica %d still asks a Redis that is gone", i)
		}
	}
	r.Start()
	for _, f := range replicas {
		for deadline := time.Now().Add(patience); f.Alone(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("Redis is back, and is not asked")
			}
		}
	}
	if got := takeAll(t, replicas, "after", rate); got != rate.Burst {
		t.Errorf("with Redis back %d were taken, want %d", got, rate.Burst)
	}
}

// takeAll asks three times as often as the rate allows, by turns.
func takeAll(t *testing.T, replicas []*ratelimit.Fallback, key string, r ratelimit.Rate) (got int) {
	t.Helper()
	for i := range 3 * r.Burst * len(replicas) {
		wait, err := replicas[i%len(replicas)].Take(t.Context(), key, r)
		if err != nil {
			t.Fatal(err)
		}
		if wait == 0 {
			got++
		}
	}
	return got
}

// start runs a replica's limiter until the test ends.
func start(t *testing.T, url string) *ratelimit.Fallback {
	t.Helper()
	f := ratelimit.NewFallback(open(t, url), ratelimit.NewLocal(nimbus.SystemClock{}, ratelimit.DefaultKeys), slog.New(slog.DiscardHandler))
	ended := make(chan error)
	ctx := t.Context() // ends before the cleanups run
	go func() { ended <- f.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return f
}
