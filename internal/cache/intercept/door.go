// Package intercept is where a host stands between the jobs of GitHub's that it
// runs and GitHub's cache service. GitHub's runner tells actions where that is, and
// nothing that a sandbox is started with changes it; so in the sandbox the name of
// the service stands for the gateway, and this door answers there, with a
// certificate of the host's own authority, which the sandbox trusts.
//
// What it takes for itself are the calls of the cache, exactly those that package
// actions answers. Everything else goes on to GitHub as it is: artifacts, logs,
// summaries, streams. So do the calls of the cache where there is none for the job,
// or it does not answer. GitHub's token never leaves for anybody but GitHub: the
// door knows which sandbox speaks by the listener that it came in by, and asks with
// a token of that sandbox' job.
package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// Port is where the service is, at GitHub and at the gateway.
const Port = 443

// Names are what the service is called at github.com. GitHub Enterprise Server has
// it under the name of all else, and the caches of ghe.com are not known to us:
// their jobs go on to use those.
func Names() []string { return []string{"results-receiver.actions.githubusercontent.com"} }

// Bounds of what jobs may make a host do, and of how long anything may take.
const (
	maxHeader     = 64 << 10
	headerTimeout = 30 * time.Second
	helloTimeout  = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	dialTimeout   = 10 * time.Second
	cacheTimeout  = 30 * time.Second
	stopTimeout   = 2 * time.Second
	maxIdle       = 64
)

// Config is what a door needs.
type Config struct {
	Authority *Authority
	// Cache is the host's door to the cache, "http://127.0.0.1:9180", and CacheHost
	// what jobs call it, host:port.
	Cache, CacheHost string
	// Forward is how GitHub is reached. The zero value: by the host's own
	// resolver, with the system's trust, and at public addresses alone.
	Forward Forward
	Log     *slog.Logger
}

// Forward is how GitHub is reached.
type Forward struct {
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	Roots *x509.CertPool
}

// Session is what a sandbox may.
type Session struct {
	Trust string // the id of the authority that it was given
	// Reach tells whether its job may reach a name.
	Reach func(name string) bool
	// Token is the job's for the cache. An error means that its calls go on to
	// GitHub. Its context ends with the call.
	Token func(ctx context.Context) (string, error)
}

// Door answers sandboxes. It is safe for concurrent use.
type Door struct {
	cfg       Config
	cache     http.RoundTripper
	forward   *httputil.ReverseProxy
	listener  *transfer.Relayed
	server    *http.Server
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	forwarded *http.Transport

	mu       sync.Mutex
	sessions map[string]*session // by sandbox
}

// session is one while it lasts.
type session struct {
	Session

	sandbox string
	ctx     context.Context //nolint:containedctx // ends all that came in by it
	end     context.CancelFunc
	doubts  doubts
}

// New makes a door; Run answers who comes in. Codes: invalid.
func New(cfg Config) (*Door, error) {
	target, err := url.Parse(cfg.Cache)
	if err != nil || target.Host == "" || cfg.CacheHost == "" || cfg.Authority == nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no address of a door to the cache", cfg.Cache)
	}
	d := &Door{cfg: cfg, sessions: map[string]*session{}, listener: transfer.NewRelayed(Port), dial: cfg.Forward.Dial}
	if d.dial == nil {
		d.dial = dialPublic
	}
	d.cache = &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleTimeout, DisableCompression: true,
	}
	d.forwarded = &http.Transport{
		DialContext: d.dial, TLSClientConfig: &tls.Config{RootCAs: cfg.Forward.Roots, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleTimeout, DisableCompression: true,
		// Upgrades to other protocols are HTTP/1.1's.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	d.forward = &httputil.ReverseProxy{
		Rewrite: rewrite, Transport: d.forwarded, FlushInterval: -1, ErrorHandler: d.unreachable,
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	d.server = &http.Server{
		Handler: http.HandlerFunc(d.answer), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, visitorKey{}, c) },
		ErrorLog:    slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return d, nil
}

// Trust is what a new sandbox is to trust.
func (d *Door) Trust() (Trust, error) { return d.cfg.Authority.Trust() }

// Admit lets a sandbox in, until leave is called, which ends what it has begun. A
// later session of the same sandbox takes the place of one before.
func (d *Door) Admit(sandbox string, s Session) (leave func()) {
	ctx, cancel := context.WithCancel(context.Background()) // ends by leave
	made := &session{Session: s, sandbox: sandbox, ctx: ctx, end: cancel}
	d.mu.Lock()
	defer d.mu.Unlock()
	if before := d.sessions[sandbox]; before != nil {
		before.end()
	}
	d.sessions[sandbox] = made
	return func() {
		cancel()
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.sessions[sandbox] == made {
			delete(d.sessions, sandbox)
		}
	}
}

func (d *Door) session(sandbox string) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions[sandbox]
}

// Run answers until ctx ends.
func (d *Door) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(d.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve GitHub's clients: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := d.server.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = d.server.Close()
	}
	d.forwarded.CloseIdleConnections()
	if stopped := <-served; !errors.Is(stopped, http.ErrServerClosed) {
		err = errors.Join(err, stopped)
	}
	if err != nil {
		return fmt.Errorf("stop serving GitHub's clients: %w", err)
	}
	return nil
}

// Serve takes a connection that came from a sandbox, and returns once it has ended.
// Of a sandbox that was not let in it is closed at once.
func (d *Door) Serve(sandbox string, conn net.Conn) {
	defer conn.Close()
	s := d.session(sandbox)
	if s == nil {
		return
	}
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	hello, heard, err := readHello(conn, helloTimeout)
	if err != nil {
		return // it is no TLS, or nobody there
	}
	name := strings.ToLower(hello.ServerName)
	if _, err := d.cfg.Authority.certificate(s.Trust, name); err != nil {
		return // a name that is not the door's
	}
	if s.doubts.proven() {
		d.pass(s, heard, name)
		return
	}
	d.receive(s, heard, name)
}

// receive has the server answer a connection.
func (d *Door) receive(s *session, conn net.Conn, name string) {
	encrypted := tls.Server(conn, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return d.cfg.Authority.certificate(s.Trust, name)
		},
	})
	handshake, cancel := context.WithTimeout(s.ctx, helloTimeout)
	err := encrypted.HandshakeContext(handshake)
	cancel()
	if err != nil {
		d.doubt(s, refusesUs(err))
		return
	}
	v := &visitor{Conn: encrypted, session: s, name: name, since: time.Now(), gone: make(chan struct{})}
	if !d.listener.Hand(s.ctx, v) {
		return
	}
	<-v.gone
	d.doubt(s, v.leftAtOnce())
}

// doubt counts a client that does not trust the door.
func (d *Door) doubt(s *session, refused bool) {
	if refused && s.doubts.add() {
		d.cfg.Log.Warn("a client in a sandbox does not trust the host's authority: its calls go straight to GitHub from here on", "sandbox", s.sandbox)
	}
}

// unreachable answers where GitHub does not.
func (d *Door) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	d.cfg.Log.WarnContext(r.Context(), "GitHub can't be reached", "path", r.URL.Path, "error", err)
	refuse(w, http.StatusBadGateway, "unavailable", "GitHub can't be reached from this host now")
}
