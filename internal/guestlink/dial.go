package guestlink

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// synInterval is how often an unanswered SYN is sent again, at first.
const synInterval = 250 * time.Millisecond

// Dial begins a new epoch on raw, the host's end of the stream, and returns it
// as a connection that owns raw. It gives up, and closes raw, when ctx ends: a
// guest may never answer.
func Dial(ctx context.Context, raw net.Conn) (net.Conn, error) {
	var n nonce
	rand.Read(n[:]) // never fails
	// Ends every read and write below.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	rest, err := greet(raw, n)
	if !stop() {
		return nil, fmt.Errorf("guest channel: %w", context.Cause(ctx))
	}
	if err != nil {
		raw.Close()
		return nil, err
	}

	var mu sync.Mutex
	var record []byte
	write := func(epoch uint32, p []byte) error {
		mu.Lock()
		defer mu.Unlock()
		record = append(header{kind: typeData, epoch: epoch, length: uint32(len(p))}.append(record[:0]), p...)
		if _, err := raw.Write(record); err != nil {
			return fmt.Errorf("guest channel: %w", err)
		}
		return nil
	}
	c := newConn(n.short(), write, func() { raw.Close() })
	// Ends when raw is closed, by either side.
	go receive(c, raw, &reader{r: newPrefixed(rest, raw)})
	return c, nil
}

// receive feeds one epoch until the stream ends or says nonsense.
func receive(c *conn, raw net.Conn, r *reader) {
	for {
		h, payload, err := r.next()
		if err != nil {
			c.end(fmt.Errorf("guest channel: %w", err))
			raw.Close()
			return
		}
		if h.kind == typeData && h.epoch == c.epoch {
			c.feed(payload)
		}
	}
}

// greet sends padding and SYN until the guest's answer is found in the stream,
// and returns what came after it.
func greet(raw net.Conn, n nonce) (rest []byte, err error) {
	done := make(chan struct{})
	sent := make(chan error, 1)
	go func() { sent <- sendSyn(raw, n, done) }()
	rest, err = awaitAnswer(raw, n)
	close(done)
	if err != nil {
		raw.Close() // ends the sender too
		return nil, errors.Join(err, <-sent)
	}
	return rest, <-sent
}

func sendSyn(raw net.Conn, n nonce, done <-chan struct{}) error {
	message := append(make([]byte, headerSize+maxPayload), handshake(typeSyn, n)...)
	for wait := synInterval; ; wait = min(2*wait, 5*time.Second) {
		if _, err := raw.Write(message); err != nil {
			return fmt.Errorf("guest channel: send SYN: %w", err)
		}
		message = handshake(typeSyn, n)
		select {
		case <-done:
			return nil
		case <-time.After(wait):
		}
	}
}

func awaitAnswer(raw net.Conn, n nonce) (rest []byte, err error) {
	want := handshake(typeSynAck, n)
	buf := make([]byte, 0, 2*maxPayload)
	for {
		got, err := raw.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+got]
		if i := bytes.Index(buf, want); i >= 0 {
			return bytes.Clone(buf[i+len(want):]), nil
		}
		if err != nil {
			return nil, fmt.Errorf("guest channel: await the guest: %w", err)
		}
		// Whatever is older than a possible beginning of the answer is dropped.
		if keep := len(want) - 1; len(buf) > keep {
			buf = buf[:copy(buf, buf[len(buf)-keep:])]
		}
	}
}

// prefixed reads some bytes before the rest of a stream.
type prefixed struct {
	first []byte
	conn  net.Conn
}

func newPrefixed(first []byte, c net.Conn) *prefixed { return &prefixed{first: first, conn: c} }

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.conn.Read(b)
}
