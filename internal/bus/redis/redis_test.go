package redis_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/bus/bustest"
	"github.com/nimbus-ci/nimbus/internal/bus/redis"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// start opens a bus and runs it until the test ends.
func start(t *testing.T, url string) *redis.Bus {
	t.Helper()
	return startLogged(t, url, slog.New(slog.DiscardHandler))
}

func startLogged(t *testing.T, url string, log *slog.Logger) *redis.Bus {
	t.Helper()
	b, err := redis.Open(url, log)
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

func TestConformance(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	for name, ends := range map[string]func(*testing.T) (a, b bus.Bus){
		"two processes": func(t *testing.T) (a, b bus.Bus) { return start(t, server.URL), start(t, server.URL) },
		"one process": func(t *testing.T) (a, b bus.Bus) {
			one := start(t, server.URL)
			return one, one
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Run(t, ends)
		})
	}
}

// TestNobodyHearsItselfTwice: what this process published is heard here at
// once, and not again when Redis tells it.
func TestNobodyHearsItselfTwice(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	a, b := start(t, server.URL), start(t, server.URL)
	near, far := a.Subscribe("topic"), b.Subscribe("topic")
	defer near.Close()
	defer far.Close()
	bustest.Heard(t, b, "topic", "a hears b", near)
	bustest.Heard(t, a, "topic", "b hears a", far)
	for len(near.C) > 0 { // who is full of what was tried hears no more
		<-near.C
	}
	once := 0
	a.Publish(t.Context(), "topic", []byte("once"))
	bustest.Heard(t, a, "topic", "it is through", far)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for heard := ""; heard != "the end"; {
		b.Publish(t.Context(), "topic", []byte("the end"))
		select {
		case got := <-near.C:
			if heard = string(got); heard == "once" {
				once++
			}
		case <-again.C: // it was lost
		}
	}
	if once != 1 {
		t.Errorf("the own message was heard %d times", once)
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
	bustest.Heard(t, a, "topic", "before", far)
	server.Stop()
	for len(near.C) > 0 {
		<-near.C
	}
	began := time.Now()
	for range 100_000 {
		a.Publish(t.Context(), "elsewhere", []byte(strings.Repeat("x", 100)))
	}
	if took := time.Since(began); took > time.Minute { // each of them would wait for as long as to dial takes
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
	bustest.Heard(t, a, "topic", "after", far)
}

// told is what was logged, by message; the values of its attributes as text.
type told struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (l *told) Enabled(context.Context, slog.Level) bool { return true }

func (l *told) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	l.lines = append(l.lines, line)
	return nil
}

// count is how many lines have all of the words.
func (l *told) count(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		has := true
		for _, word := range words {
			has = has && strings.Contains(line, word)
		}
		if has {
			n++
		}
	}
	return n
}

// until waits for something to become true.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestAnOutageIsToldOnce: when it begins and when it ends, with how long it
// was, however often both loops have tried; and what go-redis says of it goes
// to the log too.
func TestAnOutageIsToldOnce(t *testing.T) { //nolint:paralleltest // go-redis has one logger for the process
	server, log := testenv.Redis(t), &told{}
	a := startLogged(t, server.URL, slog.New(log))
	lost := func() int { return log.count("WARN", "Redis does not answer", "error=") }
	back := func() int { return log.count("INFO", "Redis answers again", "away=") }
	for outage := 1; outage <= 2; outage++ {
		until(t, "Redis is there", a.Connected)
		said := log.count("DEBUG", "go-redis says")
		server.Stop()
		until(t, "both loops have tried some times", func() bool {
			a.Publish(t.Context(), "topic", nil)
			return log.count("DEBUG", "go-redis says") > said+4
		})
		if lost() != outage || back() != outage-1 {
			t.Errorf("in outage %d it was told %d times that Redis is lost, and %d times that it is back", outage, lost(), back())
		}
		server.Start()
		until(t, "it is told that Redis is back", func() bool { return back() == outage })
	}
	if lost() != 2 || back() != 2 {
		t.Errorf("of two outages it was told %d times that Redis is lost, and %d times that it is back", lost(), back())
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	_, err := redis.Open("redis://user:secret@[", slog.New(slog.DiscardHandler))
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a wrong address: %v", err)
	}
}
