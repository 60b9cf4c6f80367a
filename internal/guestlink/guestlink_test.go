package guestlink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// port is a virtio-serial port: the guest's end stays, hosts come and go, and
// bytes in flight stay in it.
type port struct {
	guest, inner net.Conn
	mu           sync.Mutex
	host         net.Conn
	arrived      chan struct{}
}

func newPort(t *testing.T) *port {
	t.Helper()
	p := &port{arrived: make(chan struct{}, 1)}
	p.guest, p.inner = net.Pipe()
	go func() { // guest to whichever host there is; a piece waits for one
		buf := make([]byte, 777)
		for {
			n, err := p.inner.Read(buf)
			if err != nil {
				return
			}
			for sent := false; !sent; {
				p.mu.Lock()
				h := p.host
				p.mu.Unlock()
				if h != nil {
					if _, err := h.Write(buf[:n]); err == nil {
						sent = true
						continue
					}
				}
				if _, ok := <-p.arrived; !ok {
					return
				}
			}
		}
	}()
	t.Cleanup(func() {
		p.guest.Close()
		p.inner.Close()
		p.attach(nil)
		close(p.arrived)
	})
	return p
}

// connect attaches a new host and returns its end.
func (p *port) connect() net.Conn {
	ours, theirs := net.Pipe()
	p.attach(theirs)
	go func() {
		_, _ = io.Copy(p.inner, theirs)
	}()
	return ours
}

func (p *port) attach(h net.Conn) {
	p.mu.Lock()
	if p.host != nil {
		p.host.Close()
	}
	p.host = h
	p.mu.Unlock()
	if h != nil {
		select {
		case p.arrived <- struct{}{}:
		default:
		}
	}
}

// echo answers every epoch with what it sends.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func TestEveryByteArrives(t *testing.T) {
	p := newPort(t)
	l := Listen(p.guest)
	defer l.Close()
	go echo(l)
	c, err := Dial(t.Context(), p.connect())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	go func() {
		if _, err := c.Write(data); err != nil {
			t.Error(err)
		}
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Error("bytes were changed on the way")
	}
}

// TestHostsComeAndGo cuts hosts off at random points, in the middle of records
// of both directions; each next one must get a clean connection.
func TestHostsComeAndGo(t *testing.T) {
	p := newPort(t)
	l := Listen(p.guest)
	defer l.Close()
	go echo(l)
	for range 30 {
		raw := p.connect()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		c, err := Dial(ctx, raw)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		hello := make([]byte, 5000)
		for i := range hello {
			hello[i] = byte(rand.Uint32())
		}
		go func() { _, _ = c.Write(hello) }()
		got := make([]byte, len(hello))
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, hello) {
			t.Fatal("a new connection got bytes of an older one")
		}
		// A record that is never finished, and an answer that is never read.
		cut := append(header{kind: typeData, epoch: c.(*conn).epoch, length: maxPayload}.append(nil), make([]byte, rand.IntN(maxPayload))...)
		go func() { _, _ = raw.Write(cut) }()
		go func() { _, _ = c.Write(make([]byte, maxPayload)) }()
		if rand.IntN(2) == 0 {
			_, _ = io.ReadFull(c, make([]byte, rand.IntN(3000)+1))
		}
		raw.Close()
		c.Close()
	}
}

func TestANewHostEndsTheOneBefore(t *testing.T) {
	p := newPort(t)
	l := Listen(p.guest)
	defer l.Close()
	first, err := Dial(t.Context(), p.connect())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	guestFirst, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	second, err := Dial(t.Context(), p.connect())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := guestFirst.Read(make([]byte, 1)); !errors.Is(err, errEpochEnded) {
		t.Errorf("read of the old epoch: %v", err)
	}
	if _, err := guestFirst.Write([]byte("x")); !errors.Is(err, errEpochEnded) {
		t.Errorf("write of the old epoch: %v", err)
	}
}

// TestReadsGoOnWhileAWriteWaits: a guest whose write nobody takes still reads,
// as HTTP/2 needs, and can be closed.
func TestReadsGoOnWhileAWriteWaits(t *testing.T) {
	dev, raw := net.Pipe()
	defer raw.Close()
	l := Listen(dev)
	n := nonce{1}
	go func() { _, _ = raw.Write(handshake(typeSyn, n)) }()
	if _, err := io.ReadFull(raw, make([]byte, headerSize+nonceSize)); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("nobody reads this"))
		wrote <- err
	}()
	if _, err := io.ReadFull(raw, make([]byte, 1)); err != nil { // the write has begun
		t.Fatal(err)
	}
	if err := raw.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := raw.Write(append(header{kind: typeData, epoch: n.short(), length: 1}.append(nil), 'x')); err != nil {
			t.Fatalf("the guest reads no more: %v", err)
		}
	}
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err == nil {
		t.Error("a write to a closed device succeeded")
	}
}

func TestDialGivesUpOnASilentGuest(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, ours); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestDialGivesUpOnAFloodingGuest(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	go func() {
		for junk := bytes.Repeat(magic[:], 4000); ; {
			if _, err := theirs.Write(junk); err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, ours); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestAGuestThatLiesEndsTheConnection(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		r := &reader{r: theirs, lenient: true}
		_, payload, err := r.next()
		if err != nil {
			return
		}
		n := nonce(payload)
		_, _ = theirs.Write(handshake(typeSynAck, n))
		lie := header{kind: typeData, epoch: n.short(), length: 1 << 30}.append(nil)
		_, _ = theirs.Write(lie)
	}()
	c, err := Dial(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errRecord) {
		t.Fatalf("got %v", err)
	}
}

func TestReadDeadline(t *testing.T) {
	c := newConn(1, nil, func() {})
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go c.feed([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// FuzzReader feeds bytes of anybody: it must end with them, and whatever it
// returns must be a record within bounds. A good one that follows any junk
// and a full padding must be found.
func FuzzReader(f *testing.F) {
	n := nonce{1, 2, 3, 4, 5}
	f.Add(handshake(typeSyn, n))
	f.Add(header{kind: typeData, length: 3}.append(nil))
	f.Add([]byte{'N', 'N', 0xb1, 'N', 0xb1, 3})
	f.Add(header{kind: typeData, length: maxPayload}.append([]byte("junk")))
	f.Fuzz(func(t *testing.T, junk []byte) {
		stream := append(bytes.Clone(junk), make([]byte, headerSize+maxPayload)...)
		stream = append(stream, handshake(typeSyn, n)...)
		r := &reader{r: bytes.NewReader(stream), lenient: true}
		for {
			h, payload, err := r.next()
			if err != nil {
				t.Fatalf("the SYN after junk and padding was not found: %v", err)
			}
			if int(h.length) != len(payload) || len(payload) > maxPayload {
				t.Fatalf("record of %d bytes claims %d", len(payload), h.length)
			}
			if h.kind == typeSyn && nonce(payload) == n {
				return
			}
		}
	})
}
