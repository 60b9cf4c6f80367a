package redis_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/bus/redis"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// start opens a bus and runs it until the test ends.
func start(t *testing.T, url string) *redis.Bus {
	t.Helper()
	b, err := redis.Open(url, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := b.Run(ctx, func() {}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// heard publishes until the other side hears, since a message may be lost.
func heard(t *testing.T, from *redis.Bus, sub *bus.Subscription, topic, payload string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		from.Publish(t.Context(), topic, []byte(payload))
		select {
		case got := <-sub.C:
			if string(got) != payload {
				t.Fatalf("heard %q", got)
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatal("nothing was heard")
}

func TestReplicasHearEachOther(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	a, b := start(t, server.URL), start(t, server.URL)
	far, other := b.Subscribe("jobs/x"), b.Subscribe("jobs/y")
	defer far.Close()
	defer other.Close()
	heard(t, a, far, "jobs/x", "with a\nline and 12 34\nmore")
	heard(t, a, far, "jobs/x", "")

	near := a.Subscribe("jobs/x")
	defer near.Close()
	a.Publish(t.Context(), "jobs/x", []byte("mine"))
	heard(t, b, near, "jobs/x", "mine") // the own message is first
	a.Publish(t.Context(), "end", nil)
	for len(far.C) > 0 {
		<-far.C
	}
	if len(other.C) != 0 {
		t.Errorf("another topic heard %d messages", len(other.C))
	}
}

// TestRedisGone: without Redis a process hears itself, publishing blocks
// nobody, and when Redis is back the others hear again.
func TestRedisGone(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	a, b := start(t, server.URL), start(t, server.URL)
	far, near := b.Subscribe("topic"), a.Subscribe("topic")
	defer far.Close()
	defer near.Close()
	heard(t, a, far, "topic", "before")
	server.Stop()
	for len(near.C) > 0 {
		<-near.C
	}
	began := time.Now()
	for range 100_000 {
		a.Publish(t.Context(), "elsewhere", []byte(strings.Repeat("x", 100)))
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("publishing without Redis blocked for %v", took)
	}
	a.Publish(t.Context(), "topic", []byte("alone"))
	if got := string(<-near.C); got != "alone" {
		t.Errorf("heard %q", got)
	}
	if err := a.Ping(t.Context()); err == nil {
		t.Error("a stopped Redis answers")
	}
	server.Start()
	heard(t, a, far, "topic", "after")
}

func TestAddress(t *testing.T) {
	t.Parallel()
	_, err := redis.Open("redis://user:secret@[", slog.New(slog.DiscardHandler))
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a wrong address: %v", err)
	}
}
