package wire

import (
	"context"
	"net"
	"net/http"
	"net/url"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
)

// CheckServer refuses an address over which a token would travel in the clear:
// plain http is for this machine alone.
func CheckServer(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no server address", address).
			WithHint("an address looks like https://nimbus.example.com")
	}
	if u.Scheme == "https" {
		return u, nil
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return u, nil
	}
	return nil, nimbus.Errorf(nimbus.CodeInvalid, "plain http to %s would show tokens to the network", u.Host).
		WithHint("use https, or a tunnel to an address of this machine")
}

// Caller is a client interceptor: it adds the token and the org to each call
// and gives back the errors that the server meant.
type Caller struct {
	Token func() string
	Org   string // "" for the caller's own
}

// OrgHeader names the org in which an administrator acts.
const OrgHeader = "Nimbus-Org"

// Authorize puts token and org into a request's headers.
func (c Caller) Authorize(h http.Header) {
	if token := c.Token(); token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	if c.Org != "" {
		h.Set(OrgHeader, c.Org)
	}
}

// WrapUnary implements connect.Interceptor.
func (c Caller) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		c.Authorize(r.Header())
		answer, err := next(ctx, r)
		return answer, ToError(err)
	}
}

// WrapStreamingClient implements connect.Interceptor; no service streams.
func (c Caller) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor; it is not for handlers.
func (c Caller) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
