// Package bustest is the suite that every bus passes.
package bustest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/bus"
)

// patience is how long a message is tried to be heard: it may be lost, and a
// bus between processes takes a moment to connect.
const patience = 30 * time.Second

// Run checks a bus. open gives its two ends, which are the same in a bus of one
// process; it ends them with the test.
func Run(t *testing.T, open func(t *testing.T) (a, b bus.Bus)) {
	for name, check := range map[string]func(*testing.T, end, end){
		"each topic hears its own":   topicsApart,
		"payloads arrive whole":      payloads,
		"order is kept":              order,
		"a slow one loses":           slow,
		"a closed one hears no more": closed,
		"many at once":               concurrent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := open(t)
			check(t, end{a, t.Name()}, end{b, t.Name()})
		})
	}
}

// end is one end of a bus, with a topic that no other check uses, nor the same one
// of another suite: they may run on one Redis.
type end struct {
	bus.Bus
	topic string
}

// Heard publishes until the subscription has the payload, passing over others.
func Heard(t *testing.T, from bus.Bus, topic, payload string, sub *bus.Subscription) {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		from.Publish(t.Context(), topic, []byte(payload))
		for waiting := true; waiting; {
			select {
			case got := <-sub.C:
				if string(got) == payload {
					return
				}
			case <-again.C:
				waiting = false
			}
		}
	}
	t.Fatalf("%q was not heard", payload)
}

func topicsApart(t *testing.T, a, b end) {
	mine, other := b.Subscribe(a.topic), b.Subscribe(a.topic+" too")
	defer mine.Close()
	defer other.Close()
	Heard(t, a, a.topic, "x", mine)
	if n := len(other.C); n != 0 {
		t.Errorf("the other topic heard %d messages", n)
	}
}

func payloads(t *testing.T, a, b end) {
	topic := a.topic + " with a\nline and 12 34"
	sub := b.Subscribe(topic)
	defer sub.Close()
	for _, payload := range []string{"", "a\nline and 12 34\nmore", "\x00\xff", string(make([]byte, 64<<10))} {
		Heard(t, a, topic, payload, sub)
	}
}

// order: what is heard of one publisher comes in its order; gaps are allowed.
func order(t *testing.T, a, b end) {
	sub := b.Subscribe(a.topic)
	defer sub.Close()
	Heard(t, a, a.topic, "-1", sub)
	const messages = 500
	last := -1
	hear := func(payload []byte) {
		var n int
		if _, err := fmt.Sscan(string(payload), &n); err != nil || n < last {
			t.Fatalf("%q came after %d", payload, last)
		}
		last = n
	}
	for i := range messages {
		a.Publish(t.Context(), a.topic, fmt.Append(nil, i))
		for len(sub.C) > 0 {
			hear(<-sub.C)
		}
	}
	for deadline := time.After(patience); last < messages; {
		a.Publish(t.Context(), a.topic, fmt.Append(nil, messages))
		select {
		case payload := <-sub.C:
			hear(payload)
		case <-deadline:
			t.Fatal("the last message was not heard")
		}
	}
}

// slow: a subscriber that never looks holds up neither who publishes nor
// others, and has the oldest messages when it looks.
func slow(t *testing.T, a, b end) {
	asleep, awake := b.Subscribe(a.topic), b.Subscribe(a.topic)
	defer asleep.Close()
	defer awake.Close()
	Heard(t, a, a.topic, "first", awake)
	for range 10_000 {
		a.Publish(t.Context(), a.topic, []byte("more"))
	}
	for len(awake.C) > 0 {
		<-awake.C
	}
	Heard(t, a, a.topic, "last", awake)
	if got := string(<-asleep.C); got != "first" {
		t.Errorf("the oldest message is %q", got)
	}
}

func closed(t *testing.T, a, b end) {
	gone, there := b.Subscribe(a.topic), b.Subscribe(a.topic)
	defer there.Close()
	Heard(t, a, a.topic, "before", there)
	gone.Close()
	gone.Close()
	for len(gone.C) > 0 {
		<-gone.C
	}
	Heard(t, a, a.topic, "after", there)
	if n := len(gone.C); n != 0 {
		t.Errorf("a closed subscription heard %d messages", n)
	}
}

func concurrent(t *testing.T, a, b end) {
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			for n := range 20 {
				sub := to.Subscribe(a.topic)
				Heard(t, from, a.topic, fmt.Sprint(i, n), sub)
				sub.Close()
			}
		})
	}
	running.Wait()
}
