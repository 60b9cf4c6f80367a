package guestlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
)

// Bounds of what a guest may send; it is the tenant.
const (
	maxMessage    = 1 << 20
	maxHeaderList = 16 << 10
	// pingAfter and pingTimeout notice a dead guest. They are generous: an
	// emulated guest on a busy machine may not run for seconds.
	pingAfter   = 15 * time.Second
	pingTimeout = 30 * time.Second
)

// Client calls the guest over one connection. A broken one stays broken: the
// caller dials again and makes another client.
type Client struct {
	nimbusv1connect.GuestServiceClient
	conn *oneConn
}

// NewClient speaks HTTP/2 without TLS on conn, which it owns from now on. The
// token is sent with each call; "" for a channel that only the agent can open.
func NewClient(conn net.Conn, token string) *Client {
	one := &oneConn{conn: conn}
	return &Client{
		conn: one,
		GuestServiceClient: nimbusv1connect.NewGuestServiceClient(
			&http.Client{Transport: one}, "http://guest",
			connect.WithReadMaxBytes(maxMessage), connect.WithInterceptors(bearer(token)),
		),
	}
}

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.close() }

// oneConn makes requests on one connection and on no other. A Transport alone
// can't be held to that: it dials again for a request that comes before it has
// put the connection aside.
type oneConn struct {
	conn net.Conn
	once sync.Once
	http *http.ClientConn // made by the first request: that is when there is a time limit
	err  error
}

// RoundTrip implements http.RoundTripper.
func (o *oneConn) RoundTrip(r *http.Request) (*http.Response, error) {
	o.once.Do(func() { o.http, o.err = speakHTTP2(r.Context(), o.conn) })
	if o.err != nil {
		return nil, o.err
	}
	return o.http.RoundTrip(r) //nolint:wrapcheck // a RoundTripper's error is http.Client's to wrap
}

// speakHTTP2 begins with words of our own, which wait for a guest that doesn't
// read: when ctx ends before they are sent, the connection does too.
func speakHTTP2(ctx context.Context, conn net.Conn) (*http.ClientConn, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols:              &protocols,
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		MaxResponseHeaderBytes: maxHeaderList,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	spoken, err := transport.NewClientConn(ctx, "http", "guest:80")
	if err != nil {
		return nil, fmt.Errorf("speak to the guest: %w", err)
	}
	return spoken, nil
}

func (o *oneConn) close() error {
	err := o.conn.Close()
	o.once.Do(func() { o.err = net.ErrClosed }) // nothing was ever asked
	if o.http != nil {
		_ = o.http.Close() // what it was made of is closed already
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close guest connection: %w", err)
	}
	return nil
}

// bearer adds the token to every call.
type bearer string

func (b bearer) set(h http.Header) {
	if b != "" {
		h.Set("Authorization", "Bearer "+string(b))
	}
}

// WrapUnary implements connect.Interceptor.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		b.set(r.Header())
		return next(ctx, r)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, s)
		b.set(conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor; it is not for handlers.
func (bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
