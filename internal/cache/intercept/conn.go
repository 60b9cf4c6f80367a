package intercept

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// visitorKey is where the context of a request has its visitor.
type visitorKey struct{}

// visitor is a connection from a sandbox, for as long as it lasts.
type visitor struct {
	net.Conn

	session *session
	name    string // of the service that it came for
	since   time.Time
	gone    chan struct{} // closed with it
	once    sync.Once
	read    atomic.Bool // something was said
	lasted  time.Duration
}

// Read implements net.Conn.
func (v *visitor) Read(b []byte) (int, error) {
	n, err := v.Conn.Read(b)
	if n > 0 {
		v.read.Store(true)
	}
	return n, err
}

// Close implements net.Conn.
func (v *visitor) Close() error {
	err := v.Conn.Close()
	v.once.Do(func() {
		v.lasted = time.Since(v.since)
		close(v.gone)
	})
	return err
}

// CloseWrite lets streams end one side at a time.
func (v *visitor) CloseWrite() error {
	if half, ok := v.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// atOnce is how soon a client has left that only came to look at the certificate.
// Those that open a connection in advance keep it for longer.
const atOnce = 3 * time.Second

// leftAtOnce tells whether the client left without a word, once it is gone: Node
// finishes the handshake before it looks whom it talks to.
func (v *visitor) leftAtOnce() bool { return !v.read.Load() && v.lasted < atOnce }

// refusesUs tells whether a handshake failed since the client does not trust the
// certificate.
func refusesUs(err error) bool {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" {
		return false
	}
	switch said := remote.Err.Error(); {
	case strings.HasSuffix(said, "unknown certificate authority"), strings.HasSuffix(said, "bad certificate"),
		strings.HasSuffix(said, "unknown certificate"), strings.HasSuffix(said, "unsupported certificate"):
		return true
	}
	return false
}

// doubts tells whether a client of a sandbox refused the door: one of a container
// in it, or one that was given other certificates to trust. What it wants then is
// GitHub itself, and it gets that at its next try.
type doubts struct{ refused atomic.Bool }

func (d *doubts) add() (first bool) { return d.refused.CompareAndSwap(false, true) }
func (d *doubts) proven() bool      { return d.refused.Load() }

// errHeard ends a handshake once the client has said what it wants.
var errHeard = errors.New("the hello was heard")

// readHello reads what a TLS client says first, and returns a connection on which
// it is still to be read.
func readHello(conn net.Conn, within time.Duration) (hello *tls.ClientHelloInfo, same net.Conn, err error) {
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return nil, nil, err
	}
	var said bytes.Buffer
	err = tls.Server(listening{conn, io.TeeReader(io.LimitReader(conn, maxHeader), &said)}, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			hello = h
			return nil, errHeard
		},
	}).Handshake()
	if hello == nil {
		return nil, nil, err
	}
	return hello, repeated{conn, io.MultiReader(&said, conn)}, conn.SetDeadline(time.Time{})
}

// listening reads a connection and answers nothing.
type listening struct {
	net.Conn

	from io.Reader
}

func (c listening) Read(b []byte) (int, error)  { return c.from.Read(b) }
func (c listening) Write(b []byte) (int, error) { return len(b), nil }

// repeated is a connection of which the beginning was read already.
type repeated struct {
	net.Conn

	from io.Reader
}

func (c repeated) Read(b []byte) (int, error) { return c.from.Read(b) }

// CloseWrite ends one side.
func (c repeated) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
