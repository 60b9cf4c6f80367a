package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/inside"
)

// Whom this host asks for an image is the choice of who wrote the job, and of
// the registry that it named: by redirects, and by where it says that tokens
// are. So an address is looked at when the connection to it is made, whatever
// the name stood for a moment ago, and only what the operator has named may be
// at one of the host's own network.

// Named tells whether a registry may be at any address: HOST, or HOST:PORT.
// A nil one says so of all, which is for who is at the host's command line.
type Named func(registry string) bool

// has tells whether an address to dial, HOST:PORT, is a registry that is named.
// One without a port is where https and http are.
func (n Named) has(address string) bool {
	if n == nil || n(address) {
		return true
	}
	for _, port := range []string{":443", ":80"} {
		if host, ok := strings.CutSuffix(address, port); ok && n(host) {
			return true
		}
	}
	return false
}

// insideError says that somebody is at an address that jobs may not have asked.
// Which it is, is not told: that would be a map of the network.
type insideError struct{ who string }

func (e *insideError) Error() string {
	return e.who + " is not at a public address, and no job may have this host ask it"
}

// refusal is what is told of it.
func (e *insideError) refusal() error {
	return nimbus.Errorf(nimbus.CodeForbidden, "%w", e).
		WithHint("the host's operator can name it: nimbus agent --image-allow '%s/*', beside what else jobs may use", e.who)
}

// dial connects to a registry, if its address is public or it is named.
func (n Named) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	if !n.has(address) {
		d.ControlContext = func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			if at, err := netip.ParseAddrPort(resolved); err != nil || inside.Has(at.Addr()) {
				return &insideError{address}
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, address)
}

// lookupTimeout bounds the look at what a name stands for.
const lookupTimeout = 10 * time.Second

// check looks at all addresses of a host, for what others will connect to: each
// must be public, unless the registry is named.
func (n Named) check(ctx context.Context, address string) error {
	if n.has(address) {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("read the registry's address: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return fmt.Errorf("find the registry's address: %w", err)
	}
	for _, a := range all {
		if inside.Has(a) {
			return &insideError{address}
		}
	}
	return nil
}

// CheckRegistry tells whether somebody else may be told to ask the registry of
// an image: a docker daemon. What that finds when it asks, a moment later, and
// where the registry sends it, is not known here. Codes: forbidden, unavailable,
// invalid.
func CheckRegistry(ctx context.Context, canonical string, named Named) error {
	ref, err := name.ParseReference(canonical)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "%q names no image of a registry: %w", canonical, err)
	}
	address := ref.Context().RegistryStr()
	if _, _, err := net.SplitHostPort(address); err != nil {
		address += ":443"
	}
	return reason(named.check(ctx, address))
}

// guarded sends each request of a registry's client, those after a redirect too.
type guarded struct {
	named           Named
	direct, proxied *http.Transport
}

func newGuarded(n Named) guarded {
	transport := func() *http.Transport {
		return &http.Transport{TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: headerTimeout, ForceAttemptHTTP2: true}
	}
	g := guarded{named: n, direct: transport(), proxied: transport()}
	g.direct.DialContext = n.dial
	g.proxied.Proxy, g.proxied.DialContext = http.ProxyFromEnvironment, (&net.Dialer{Timeout: dialTimeout}).DialContext
	return g
}

// RoundTrip goes through the proxy that this host's environment names, or
// straight. A proxy asks for us: it is where the operator put it, and sees to it
// itself where names lead that only it can look up.
func (g guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, fmt.Errorf("find the proxy: %w", err)
	}
	if proxy == nil {
		return g.direct.RoundTrip(r)
	}
	address := r.URL.Host
	if r.URL.Port() == "" {
		address += map[string]string{"https": ":443", "http": ":80"}[r.URL.Scheme]
	}
	var unknown *net.DNSError
	if err := g.named.check(r.Context(), address); err != nil && !errors.As(err, &unknown) {
		return nil, err
	}
	return g.proxied.RoundTrip(r)
}
