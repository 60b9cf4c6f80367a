package guestlink

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// receiveBound is how many bytes wait for a reader; at the bound the channel
// waits, and HTTP/2's own flow control keeps that from happening.
const receiveBound = 4 * maxPayload

// stallTimeout ends an epoch whose reader takes nothing although the other
// side goes on sending: a new epoch must be able to get through.
const stallTimeout = 30 * time.Second

// errEpochEnded is what reads and writes of an old epoch return.
var errEpochEnded = errors.New("guest channel: the other side began a new connection")

// conn is one epoch. It is fed by the one reader of the stream.
type conn struct {
	epoch  uint32
	write  func(epoch uint32, p []byte) error
	closed func() // once, when the user closes it

	mu       sync.Mutex
	buf      []byte
	err      error         // why it ended; reads return it after buf
	changed  chan struct{} // closed and replaced whenever buf or err change
	deadline deadline
	once     sync.Once
}

func newConn(epoch uint32, write func(uint32, []byte) error, closed func()) *conn {
	return &conn{epoch: epoch, write: write, closed: closed, changed: make(chan struct{})}
}

// notify wakes whoever waits for a change. Called with mu held.
func (c *conn) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// feed hands data to the reader, waiting while it has too much already.
func (c *conn) feed(p []byte) {
	stalled := time.NewTimer(stallTimeout)
	defer stalled.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf)+len(p) > receiveBound && c.err == nil {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
			c.mu.Lock()
		case <-stalled.C:
			c.mu.Lock()
			c.err = errors.New("guest channel: nobody read for too long")
			c.notify()
		}
	}
	if c.err == nil {
		c.buf = append(c.buf, p...)
		c.notify()
	}
}

// end makes reads return err once the buffer is empty, and writes at once.
func (c *conn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		c.notify()
	}
}

// Read returns what has arrived.
func (c *conn) Read(p []byte) (int, error) {
	for {
		c.mu.Lock()
		if len(c.buf) > 0 {
			n := copy(p, c.buf)
			c.buf = c.buf[n:]
			c.notify()
			c.mu.Unlock()
			return n, nil
		}
		err, changed := c.err, c.changed
		c.mu.Unlock()
		if err != nil {
			return 0, err
		}
		select {
		case <-changed:
		case <-c.deadline.passed():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// Write sends p as one or more records.
func (c *conn) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		c.mu.Lock()
		err := c.err
		c.mu.Unlock()
		if err != nil {
			return n, err
		}
		piece := p[:min(len(p), maxPayload)]
		if err := c.write(c.epoch, piece); err != nil {
			return n, err
		}
		n += len(piece)
		p = p[len(piece):]
	}
	return n, nil
}

// Close ends the epoch for this side.
func (c *conn) Close() error {
	c.end(net.ErrClosed)
	c.once.Do(c.closed)
	return nil
}

// LocalAddr names the channel.
func (c *conn) LocalAddr() net.Addr { return addr{} }

// RemoteAddr names the channel.
func (c *conn) RemoteAddr() net.Addr { return addr{} }

// SetDeadline bounds reads; see SetWriteDeadline.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline bounds reads.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.deadline.set(t)
	return nil
}

// SetWriteDeadline does nothing: a write to the device ends when the other
// side reads, when a new epoch begins, or when the sandbox dies.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// addr is the address of a channel, which has none.
type addr struct{}

func (addr) Network() string { return "guest" }
func (addr) String() string  { return "guest" }

// deadline is a moment that can be moved while somebody waits for it.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	gone  chan struct{}
}

// passed is closed once the deadline has passed.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone == nil {
		d.gone = make(chan struct{})
	}
	return d.gone
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	select {
	case <-d.gone: // passed before: begin anew
		d.gone = nil
	default:
	}
	if d.gone == nil {
		d.gone = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	gone := d.gone
	fire := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		select {
		case <-gone:
		default:
			close(gone)
		}
	}
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, fire)
		return
	}
	close(gone)
}

var (
	_ net.Conn  = (*conn)(nil)
	_ io.Reader = (*conn)(nil)
)
