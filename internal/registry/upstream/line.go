package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/inside"
)

const (
	dialTimeout   = 10 * time.Second
	lookupTimeout = 10 * time.Second
	idleConns     = 90 * time.Second
	connsPerHost  = 64
)

// Line is how upstreams are reached: only at addresses of the internet and by TLS,
// except for those that the operator has named. Safe for concurrent use.
type Line struct {
	named           func(address string) bool
	lookup          func(ctx context.Context, network, host string) ([]netip.Addr, error)
	direct, proxied *http.Transport
}

// NewLine returns a line. named tells whether a registry, HOST:PORT, may be at an
// address of the operator's own network, and without TLS.
func NewLine(named func(address string) bool) *Line {
	transport := func() *http.Transport {
		return &http.Transport{TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: headerTimeout, ForceAttemptHTTP2: true, DisableCompression: true,
			IdleConnTimeout: idleConns, MaxConnsPerHost: connsPerHost, MaxResponseHeaderBytes: 256 << 10}
	}
	l := &Line{named: named, lookup: net.DefaultResolver.LookupNetIP, direct: transport(), proxied: transport()}
	l.direct.DialContext = l.dial
	l.proxied.Proxy, l.proxied.DialContext = http.ProxyFromEnvironment, (&net.Dialer{Timeout: dialTimeout}).DialContext
	return l
}

// Close lets go of connections that nobody uses.
func (l *Line) Close() {
	l.direct.CloseIdleConnections()
	l.proxied.CloseIdleConnections()
}

// address is the HOST:PORT of a URL.
func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (l *Line) dial(ctx context.Context, network, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	if !l.named(to) {
		d.ControlContext = func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			if at, err := netip.ParseAddrPort(resolved); err != nil || inside.Has(at.Addr()) {
				return insideError(to)
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, to) //nolint:wrapcheck // told by failed
}

// insideError does not tell the address: that would be a map of the network.
func insideError(who string) error {
	return &Error{Kind: Inside, text: who + " is not at a public address, and the server's operator has not named it"}
}

// check looks at all addresses of a host that a proxy is going to ask.
func (l *Line) check(ctx context.Context, to string) error {
	if l.named(to) {
		return nil
	}
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		return fmt.Errorf("read an address: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	all, err := l.lookup(ctx, "ip", host)
	var unknown *net.DNSError
	if errors.As(err, &unknown) && unknown.IsNotFound {
		// The proxy may know it, and is where the operator put it. Where it is only that
		// nobody answers us, it may as well be inside.
		return nil
	}
	if err != nil {
		return fmt.Errorf("find an address: %w", err)
	}
	for _, a := range all {
		if inside.Has(a) {
			return insideError(to)
		}
	}
	return nil
}

// RoundTrip implements http.RoundTripper, for what comes after a redirect and for
// tokens too.
func (l *Line) RoundTrip(r *http.Request) (*http.Response, error) {
	to := address(r.URL)
	if r.URL.Scheme != "https" && !l.named(to) {
		return nil, &Error{Kind: Inside, text: to + " is to be asked without TLS, and the server's operator has not named it"}
	}
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, fmt.Errorf("find the proxy: %w", err)
	}
	if proxy == nil {
		return l.direct.RoundTrip(r) //nolint:wrapcheck // told by failed
	}
	if err := l.check(r.Context(), to); err != nil {
		return nil, err
	}
	return l.proxied.RoundTrip(r) //nolint:wrapcheck // told by failed
}
