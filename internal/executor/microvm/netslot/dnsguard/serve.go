package dnsguard

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// Bounds of what one guest may make the guard do.
const (
	// rateLimit is how many questions a second are answered in the long run,
	// and rateBurst how many at once.
	rateLimit = 50
	rateBurst = 200
	// maxAsked is how many questions are looked into at once; more are dropped,
	// and resolvers ask again.
	maxAsked = 32
	// maxStreams is how many connections are open at once, idleTimeout for how
	// long they may say nothing, and maxPerStream how many questions each may
	// ask.
	maxStreams   = 8
	idleTimeout  = 10 * time.Second
	maxPerStream = 100
	// maxQuestion is the longest message that is read: a question has one name.
	maxQuestion = 1 << 10
)

// ServeDatagrams answers what comes until the socket is closed.
func (g *Guard) ServeDatagrams(ctx context.Context, socket net.PacketConn) {
	var asked sync.WaitGroup
	defer asked.Wait()
	slots := make(chan struct{}, maxAsked)
	buf := make([]byte, maxQuestion)
	for {
		n, from, err := socket.ReadFrom(buf)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				g.cfg.Log.WarnContext(ctx, "hear questions for names", "error", err)
			}
			return
		}
		if n == len(buf) { // it may be cut
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		message := slices.Clone(buf[:n])
		asked.Go(func() {
			defer func() { <-slots }()
			if answer := g.answer(ctx, message, 0); answer != nil {
				_, _ = socket.WriteTo(answer, from) // lost like any datagram
			}
		})
	}
}

// ServeStream answers the questions of one connection, one after another, and
// closes it.
func (g *Guard) ServeStream(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	for range maxPerStream {
		if err := conn.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		message, err := readFrame(conn, maxQuestion)
		if err != nil {
			return
		}
		answer := g.answer(ctx, message, maxMessage)
		if answer == nil {
			return
		}
		if _, err := conn.Write(frame(answer)); err != nil {
			return
		}
	}
}

// MaxStreams is how many connections should be served at once.
func MaxStreams() int { return maxStreams }

// bucket is a rate: tokens come with time, up to a burst.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() {
		b.tokens = min(rateBurst, b.tokens+max(0, now.Sub(b.last).Seconds())*rateLimit)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
