package guest

import (
	"net"
	"testing"

	"github.com/mdlayher/vsock"
)

// scripted is a listener to whom connections came already.
type scripted struct {
	net.Listener

	conns []net.Conn
}

func (s *scripted) Accept() (net.Conn, error) {
	if len(s.conns) == 0 {
		return nil, net.ErrClosed
	}
	next := s.conns[0]
	s.conns = s.conns[1:]
	return next, nil
}

// from is a connection of somebody's.
type from struct {
	net.Conn

	address net.Addr
	closed  bool
}

func (f *from) RemoteAddr() net.Addr { return f.address }
func (f *from) Close() error         { f.closed = true; return nil }

// TestOnlyTheHostComesByVsock: the job's processes, a neighbour, and what is no
// vsock at all are hung up on.
func TestOnlyTheHostComesByVsock(t *testing.T) {
	t.Parallel()
	host := &from{address: &vsock.Addr{ContextID: 2, Port: 1 << 30}}
	var others []*from
	for _, address := range []net.Addr{
		&vsock.Addr{ContextID: 1, Port: 9}, &vsock.Addr{ContextID: 3, Port: 9}, &net.UnixAddr{Name: "s", Net: "unix"},
	} {
		others = append(others, &from{address: address})
	}
	l := hostOnly{&scripted{conns: []net.Conn{others[0], others[1], host, others[2]}}}
	if conn, err := l.Accept(); err != nil || conn != net.Conn(host) || host.closed {
		t.Errorf("got %v, %v", conn, err)
	}
	if conn, err := l.Accept(); err == nil {
		t.Errorf("let %v in", conn.RemoteAddr())
	}
	for _, o := range others {
		if !o.closed {
			t.Errorf("%v was not hung up on", o.address)
		}
	}
}
