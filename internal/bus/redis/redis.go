// Package redis is a bus between replicas. What is published is heard in this
// process at once, and by way of Redis in the others. Redis may be slow or
// gone: then the others hear later or not at all, and find what is new by
// looking, as the bus allows.
package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

const (
	// channel carries all topics: a replica has subscribers to most of them, and
	// one subscription costs less than thousands that come and go.
	channel = "nimbus:bus"
	// outbox is how many messages wait for Redis. The next one is dropped.
	outbox = 4096
	// together is how many messages travel in one command.
	together = 128
	// callTimeout bounds one command.
	callTimeout = 2 * time.Second
	// retryPause is between tries to reach a Redis that is gone.
	retryPause = 500 * time.Millisecond
	// maxMessage bounds what is believed to be a message of ours.
	maxMessage = 1 << 20
)

// Bus is a bus.Bus over Redis. Its Run must run for messages to travel.
type Bus struct {
	local  *bus.InProcess
	client *goredis.Client
	origin string // of this process, so that it does not hear itself twice
	out    chan message
	outage outage

	hearing atomic.Bool // what others publish
}

type message struct {
	topic   string
	payload []byte
}

// Open returns a bus on the Redis of a redis://, rediss:// or unix:// URL. It
// does not wait for Redis to answer. Codes: invalid.
func Open(url string, log *slog.Logger) (*Bus, error) {
	options, err := goredis.ParseURL(url)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the address of Redis is not valid"). // it may hold a password
													WithHint("an address looks like redis://127.0.0.1:6379/0")
	}
	goredis.SetLogger(library{log})
	options.MaxRetries = -1
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = callTimeout, callTimeout, callTimeout
	return &Bus{local: bus.NewInProcess(), client: goredis.NewClient(options), origin: nimbus.NewID("bus", time.Now()),
		out: make(chan message, outbox), outage: outage{log: log}}, nil
}

// library takes what go-redis says: by itself it prints onto stderr, a line for
// each try. It has one logger for the whole process, the last one opened gets it.
type library struct{ log *slog.Logger }

// Printf implements go-redis' logger.
func (l library) Printf(ctx context.Context, format string, args ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "go-redis says: "+fmt.Sprintf(format, args...))
	}
}

// Close ends the connections, after Run has returned.
func (b *Bus) Close() error { return b.client.Close() }

// Name implements lifecycle.Service.
func (b *Bus) Name() string { return "bus" }

// Publish implements bus.Bus.
func (b *Bus) Publish(ctx context.Context, topic string, payload []byte) {
	b.local.Publish(ctx, topic, payload)
	select {
	case b.out <- message{topic, payload}:
	default: // Redis is behind: the others will look by themselves
	}
}

// Subscribe implements bus.Bus.
func (b *Bus) Subscribe(topic string) *bus.Subscription { return b.local.Subscribe(topic) }

// Connected tells whether this process hears the others.
func (b *Bus) Connected() bool { return b.hearing.Load() }

// Ping tells whether Redis answers.
func (b *Bus) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := b.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

// Run implements lifecycle.Service: it carries messages until ctx ends.
func (b *Bus) Run(ctx context.Context, ready func()) error {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		b.runSendLoop(ctx)
	}()
	ready() // whether Redis is there or not
	b.runReceiveLoop(ctx)
	<-sent
	return nil
}

func (b *Bus) runSendLoop(ctx context.Context) {
	for {
		var batch bytes.Buffer
		select {
		case <-ctx.Done():
			return
		case m := <-b.out:
			write(&batch, m)
		}
		for n := 1; n < together && len(b.out) > 0; n++ {
			write(&batch, <-b.out)
		}
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		err := b.client.Publish(bounded, channel, b.origin+"\n"+batch.String()).Err()
		cancel()
		if err != nil {
			b.outage.begins(ctx, &b.outage.mute, err)
			pause(ctx)
		} else {
			b.outage.ends(ctx, &b.outage.mute)
		}
	}
}

// write adds a message to a batch: topic and payload, each by its length.
func write(batch *bytes.Buffer, m message) {
	fmt.Fprintf(batch, "%d %d\n%s%s", len(m.topic), len(m.payload), m.topic, m.payload)
}

func (b *Bus) runReceiveLoop(ctx context.Context) {
	for ctx.Err() == nil {
		err := b.receive(ctx)
		b.hearing.Store(false)
		b.outage.begins(ctx, &b.outage.deaf, err)
		pause(ctx)
	}
}

// receive hears what others publish until the connection breaks.
func (b *Bus) receive(ctx context.Context) error {
	sub := b.client.Subscribe(ctx, channel)
	defer func() { _ = sub.Close() }()                         // it is of no use any more
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // its reads don't hear of ctx
	for {
		got, err := sub.ReceiveTimeout(ctx, time.Minute)
		var quiet interface{ Timeout() bool }
		if err != nil {
			if errors.As(err, &quiet) && quiet.Timeout() && ctx.Err() == nil {
				if err := sub.Ping(ctx); err != nil {
					return fmt.Errorf("ping: %w", err)
				}
				continue
			}
			return err
		}
		if !b.hearing.Swap(true) {
			b.outage.ends(ctx, &b.outage.deaf)
		}
		if m, ok := got.(*goredis.Message); ok {
			b.deliver(ctx, m.Payload)
		}
	}
}

// deliver hands a batch of another process to those who listen here. What is
// malformed is dropped.
func (b *Bus) deliver(ctx context.Context, batch string) {
	origin, rest, ok := strings.Cut(batch, "\n")
	if !ok || origin == b.origin || len(batch) > maxMessage {
		return
	}
	for rest != "" {
		var head string
		var topic, payload int
		head, rest, ok = strings.Cut(rest, "\n")
		if _, err := fmt.Sscanf(head, "%d %d", &topic, &payload); !ok || err != nil ||
			topic < 0 || payload < 0 || topic > len(rest) || payload > len(rest)-topic {
			return
		}
		b.local.Publish(ctx, rest[:topic], []byte(rest[topic:topic+payload]))
		rest = rest[topic+payload:]
	}
}

// outage tells once that Redis is lost and once that it is back, whichever of
// the two loops sees it first.
type outage struct {
	log *slog.Logger

	mu         sync.Mutex
	since      time.Time
	deaf, mute bool // we don't hear others, they don't hear us
}

// begins tells of a loss, in one of the two ways, if it is the first.
func (o *outage) begins(ctx context.Context, way *bool, err error) {
	if ctx.Err() != nil {
		return // we leave, not Redis
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.deaf && !o.mute {
		o.since = time.Now()
		o.log.WarnContext(ctx, "Redis does not answer: other replicas learn of changes later", "error", err)
	}
	*way = true
}

// ends tells that Redis is back, once it is in both ways. Who hears again is
// heard again, as far as can be known: there may be nothing to send for long.
func (o *outage) ends(ctx context.Context, way *bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.deaf || o.mute
	*way = false
	if way == &o.deaf {
		o.mute = false
	}
	if was && !o.deaf && !o.mute {
		o.log.InfoContext(ctx, "Redis answers again", "away", time.Since(o.since).Round(time.Millisecond))
	}
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryPause):
	}
}
