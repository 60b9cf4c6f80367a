// Package bus carries wake-ups between the rooms of the control plane: a job
// is waiting, a host has something to cancel, a log grew.
//
// A message is a hint and may be lost: truth lives in SQL, and whoever waits
// on a topic also looks there from time to time. That is what lets the bus be
// a channel in one process and Redis between many, and be gone without harm.
package bus

import (
	"context"
	"sync"
)

// Topics. Those made of an id are for one receiver of many.
const (
	TopicQueue = "queue" // a job may be waiting: wakes the polls of hosts
)

// HostTopic is for one host: something of its work is to be cancelled, or
// somebody wants a shell.
func HostTopic(hostID string) string { return "host/" + hostID }

// JobsTopic tells that a job of an org changed; the payload is the job's id.
func JobsTopic(orgID string) string { return "jobs/" + orgID }

// LogTopic tells that the log of an attempt has new lines or is complete.
func LogTopic(attemptID string) string { return "log/" + attemptID }

// ShellTopic tells that something passed in a shell, or that it has ended.
func ShellTopic(shellID string) string { return "shell/" + shellID }

// Bus carries messages by topic. All methods may be called concurrently.
type Bus interface {
	// Publish hands payload to all who are subscribed to topic now. It never
	// blocks on a slow one; payload must not be changed afterwards.
	Publish(ctx context.Context, topic string, payload []byte)
	// Subscribe receives what is published to topic from now on. The caller
	// closes the subscription.
	Subscribe(topic string) *Subscription
}

// backlog is how many messages wait for a slow subscriber. The next one is
// dropped: whoever is behind looks into the database anyway.
const backlog = 64

// Subscription is one receiver of one topic.
type Subscription struct {
	// C carries the messages. It is never closed.
	C <-chan []byte

	send  chan []byte
	close func()
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() { s.close() }

// InProcess is a Bus within one process. The zero value is not usable.
type InProcess struct {
	mu     sync.Mutex
	topics map[string]map[*Subscription]struct{}
}

// NewInProcess returns an empty bus.
func NewInProcess() *InProcess {
	return &InProcess{topics: map[string]map[*Subscription]struct{}{}}
}

// Publish implements Bus.
func (b *InProcess) Publish(_ context.Context, topic string, payload []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.topics[topic] {
		select {
		case s.send <- payload:
		default: // slow: it loses this one
		}
	}
}

// Subscribe implements Bus.
func (b *InProcess) Subscribe(topic string) *Subscription {
	ch := make(chan []byte, backlog)
	s := &Subscription{C: ch, send: ch}
	s.close = func() { b.drop(topic, s) }
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics[topic] == nil {
		b.topics[topic] = map[*Subscription]struct{}{}
	}
	b.topics[topic][s] = struct{}{}
	return s
}

func (b *InProcess) drop(topic string, s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.topics[topic], s)
	if len(b.topics[topic]) == 0 {
		delete(b.topics, topic)
	}
}
