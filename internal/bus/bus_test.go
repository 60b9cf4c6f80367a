package bus_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/bus"
)

func TestPublishReachesItsTopicOnly(t *testing.T) {
	t.Parallel()
	b := bus.NewInProcess()
	mine, other := b.Subscribe(bus.HostTopic("a")), b.Subscribe(bus.HostTopic("b"))
	defer mine.Close()
	defer other.Close()
	b.Publish(t.Context(), bus.HostTopic("a"), []byte("x"))
	if got := string(<-mine.C); got != "x" {
		t.Errorf("got %q", got)
	}
	select {
	case got := <-other.C:
		t.Errorf("the other topic got %q", got)
	default:
	}
}

func TestSlowSubscriberLosesInsteadOfBlocking(t *testing.T) {
	t.Parallel()
	b := bus.NewInProcess()
	slow := b.Subscribe(bus.TopicQueue)
	for i := range 1000 {
		b.Publish(t.Context(), bus.TopicQueue, []byte(fmt.Sprint(i)))
	}
	if got := string(<-slow.C); got != "0" {
		t.Errorf("the oldest message is %q, want 0", got)
	}
	slow.Close()
	slow.Close()
	b.Publish(t.Context(), bus.TopicQueue, nil) // nobody is there
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	b := bus.NewInProcess()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				s := b.Subscribe(bus.TopicQueue)
				b.Publish(t.Context(), bus.TopicQueue, nil)
				<-s.C
				s.Close()
			}
		})
	}
	wg.Wait()
}
