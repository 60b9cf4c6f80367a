package transfer

import (
	"context"
	"net"
	"sync"
)

// Relayed is a listener of connections that others have accepted, as relays of
// sandboxes do: who brings one knows whose it is.
type Relayed struct {
	port   int
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewRelayed is one of a port of gateways.
func NewRelayed(port int) *Relayed {
	return &Relayed{port: port, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Hand gives a connection to who accepts. False where nobody does any more, or
// before ctx ends.
func (l *Relayed) Hand(ctx context.Context, c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
	case <-ctx.Done():
	}
	return false
}

// Accept implements net.Listener.
func (l *Relayed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Relayed) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Relayed) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: l.port} }
