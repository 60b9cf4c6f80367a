package guestlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"

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
	conn *http2.ClientConn
}

// NewClient speaks HTTP/2 without TLS on conn, which it owns from now on. The
// token is sent with each call; "" for a channel that only the agent can open.
func NewClient(conn net.Conn, token string) (*Client, error) {
	transport := &http2.Transport{
		AllowHTTP:         true,
		MaxHeaderListSize: maxHeaderList,
		ReadIdleTimeout:   pingAfter,
		PingTimeout:       pingTimeout,
	}
	cc, err := transport.NewClientConn(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open HTTP/2 to the guest: %w", err)
	}
	service := nimbusv1connect.NewGuestServiceClient(
		&http.Client{Transport: cc}, "http://guest",
		connect.WithReadMaxBytes(maxMessage),
		connect.WithInterceptors(bearer(token)),
	)
	return &Client{GuestServiceClient: service, conn: cc}, nil
}

// Close ends the connection and every call on it.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
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
