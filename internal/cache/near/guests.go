package near

import (
	"context"
	"net"
	"sync"
	"time"
)

// sandboxKey is where the context of a request has the sandbox that it came from.
type sandboxKey struct{}

// guest is a connection from a sandbox. What it has of its own is there for files,
// which the kernel sends to a TCP connection by itself.
type guest struct {
	*net.TCPConn

	sandbox string
	once    sync.Once
	gone    chan struct{} // closed with it
}

// Close implements net.Conn.
func (g *guest) Close() error {
	defer g.once.Do(func() { close(g.gone) })
	return g.TCPConn.Close()
}

// Serve takes a connection that a relay of a sandbox has accepted, and returns once
// it has ended. So the door knows whose it is, and needs no port for it.
func (d *Door) Serve(sandbox string, conn net.Conn) {
	defer conn.Close()
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		d.cfg.Log.Error("a relay has a connection that is not TCP", "sandbox", sandbox)
		return
	}
	g := &guest{TCPConn: tcp, sandbox: sandbox, gone: make(chan struct{})}
	if d.guests.hand(g) {
		<-g.gone
	}
}

// inContext tells requests which sandbox their connection is of.
func inContext(ctx context.Context, c net.Conn) context.Context {
	if g, ok := c.(*guest); ok {
		return context.WithValue(ctx, sandboxKey{}, g.sandbox)
	}
	return ctx
}

// guests is a listener of connections that relays have accepted.
type guests struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newGuests() *guests { return &guests{conns: make(chan net.Conn), closed: make(chan struct{})} }

// hand gives a connection to who accepts; false where nobody does.
func (l *guests) hand(c net.Conn) bool {
	late := time.NewTimer(dialTimeout)
	defer late.Stop()
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
	case <-late.C:
	}
	return false
}

// Accept implements net.Listener.
func (l *guests) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *guests) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *guests) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: Port} }
