package guestlink

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
)

// Listen serves the guest's end of the stream: each epoch that the host begins
// is one connection from Accept, and ends the one before. dev's Read blocks
// until there is something; its error ends the listener.
func Listen(dev io.ReadWriteCloser) net.Listener {
	l := &listener{dev: dev, epochs: make(chan *conn, 1), closed: make(chan struct{})}
	go l.receive()
	return l
}

type listener struct {
	dev    io.ReadWriteCloser
	epochs chan *conn
	closed chan struct{}
	once   sync.Once

	mu    sync.Mutex // never held over a write: reads must go on while one waits
	now   *conn
	nonce nonce

	writing sync.Mutex // held over a write, and guards record
	record  []byte
}

// Accept returns the next epoch.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.epochs:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the listener, its epoch and the device.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.begin(nil)
	if err := l.dev.Close(); err != nil {
		return fmt.Errorf("close guest channel: %w", err)
	}
	return nil
}

// Addr names the channel.
func (l *listener) Addr() net.Addr { return addr{} }

// receive is the one reader of the device. It ends with the device.
func (l *listener) receive() {
	// A SYN comes behind padding: to read that header by header would take
	// thousands of calls, each of which an emulated machine feels.
	r := &reader{r: bufio.NewReaderSize(l.dev, 2*maxPayload), lenient: true}
	for {
		h, payload, err := r.next()
		if err != nil {
			l.once.Do(func() { close(l.closed) })
			l.begin(nil)
			return
		}
		switch h.kind {
		case typeSyn:
			l.syn(nonce(payload))
		case typeData:
			if c := l.current(); c != nil && c.epoch == h.epoch {
				c.feed(payload)
			}
		}
	}
}

// syn begins an epoch, unless it is the one that there is: then the host did
// not see the answer yet.
func (l *listener) syn(n nonce) {
	l.mu.Lock()
	known := l.now != nil && l.nonce == n
	l.mu.Unlock()
	if !known {
		c := newConn(n.short(), l.send, func() {})
		l.begin(c)
		l.mu.Lock()
		l.nonce = n
		l.mu.Unlock()
		select {
		case <-l.epochs: // nobody took the one before: it has ended
		default:
		}
		l.epochs <- c
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	_, _ = l.dev.Write(handshake(typeSynAck, n)) // a lost answer is asked for again
}

// begin makes c the current epoch and ends the one before.
func (l *listener) begin(c *conn) {
	l.mu.Lock()
	before := l.now
	l.now = c
	l.mu.Unlock()
	if before != nil {
		before.end(errEpochEnded)
	}
}

func (l *listener) current() *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *listener) send(epoch uint32, p []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if c := l.current(); c == nil || c.epoch != epoch {
		return errEpochEnded
	}
	l.record = append(header{kind: typeData, epoch: epoch, length: uint32(len(p))}.append(l.record[:0]), p...)
	if _, err := l.dev.Write(l.record); err != nil {
		return fmt.Errorf("guest channel: %w", err)
	}
	return nil
}
