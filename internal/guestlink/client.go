package guestlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
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
	conn      net.Conn
	transport *http.Transport
}

// errUsed is what a second connection is refused with.
var errUsed = errors.New("guest channel: the connection is used up")

// NewClient speaks HTTP/2 without TLS on conn, which it owns from now on. The
// token is sent with each call; "" for a channel that only the agent can open.
func NewClient(conn net.Conn, token string) *Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	var used atomic.Bool
	transport := &http.Transport{
		Protocols: &protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errUsed
			}
			return conn, nil
		},
		MaxResponseHeaderBytes: maxHeaderList,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	return &Client{
		conn: conn, transport: transport,
		GuestServiceClient: nimbusv1connect.NewGuestServiceClient(
			&http.Client{Transport: transport}, "http://guest",
			connect.WithReadMaxBytes(maxMessage), connect.WithInterceptors(bearer(token)),
		),
	}
}

// Close ends the connection and every call on it.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.transport.CloseIdleConnections()
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
