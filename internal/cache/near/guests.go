package near

import (
	"context"
	"net"
	"sync"
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
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	if d.guests.Hand(ctx, g) {
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
