// Package near is the host's side of the cache. Jobs reach it at a port of their
// gateway, and it passes on to the control plane what is the cache's, or the
// registry's, and nothing else: a sandbox never sees the control plane itself, nor needs its certificate.
// Contents that pass, either way, are kept on the host's disk and served from
// there, each time after the control plane has said that the job may have them.
package near

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// Port is where jobs find the cache, at their gateway.
const Port = 9180

// Bounds of what jobs may make a host do, and of how long anything may take.
const (
	maxRequests   = 512 // at once, of all jobs of the host; see shares
	maxIdle       = 256 // connections to the control plane
	maxHeader     = 64 << 10
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	dialTimeout   = 10 * time.Second
	stopTimeout   = 2 * time.Second
)

// Config is what a door needs.
type Config struct {
	Server string      // the control plane, as "https://nimbus.example"
	TLS    *tls.Config // whom to trust, and how to be known; nil: the system's trust
	// Dir is where contents are kept, and Bytes how much of the disk they may take;
	// 0 keeps none.
	Dir   string
	Bytes int64
	// PortFile is where the port is written down, for the next door of this host to
	// have the same. "": nowhere.
	PortFile string
	// Over tells by how many bytes the disk of Dir is fuller than it should be: so
	// much goes. nil: never.
	Over func() int64
	Log  *slog.Logger
}

// Door takes jobs' requests on the host's loopback interface, and what relays of
// sandboxes bring.
type Door struct {
	cfg      Config
	target   *url.URL
	listener net.Listener
	guests   *transfer.Relayed
	shares   *shares
	tier     atomic.Pointer[tier] // nil while nothing is kept
	wishes   *wishes
}

// Open begins to listen; Run answers. Codes: invalid.
func Open(cfg Config) (*Door, error) {
	target, err := url.Parse(cfg.Server)
	if err != nil || target.Host == "" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no address of a server", cfg.Server)
	}
	l, err := cfg.listen()
	if err != nil {
		return nil, err
	}
	return &Door{cfg: cfg, target: target, listener: l, guests: transfer.NewRelayed(Port), shares: newShares(), wishes: newWishes()}, nil
}

// handler is the way to the control plane, by what is kept here.
func (d *Door) handler() http.Handler {
	proxy := passOn(d.cfg, d.target)
	if d.cfg.Bytes <= 0 {
		return proxy
	}
	t, err := newTier(d.cfg, d.target, proxy)
	if err != nil {
		d.cfg.Log.Error("this host keeps nothing of the cache, which works without it", "error", err)
		return proxy
	}
	d.tier.Store(t)
	return t
}

// passOn is the way to the control plane.
func passOn(cfg Config, target *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host})
			r.Out.Host = r.In.Host // URLs that the server makes lead back here
			if r.Out.Body != nil {
				r.Out.Body = &incoming{ReadCloser: r.Out.Body}
			}
		},
		Transport: &http.Transport{
			TLSClientConfig: cfg.TLS, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, TLSHandshakeTimeout: dialTimeout,
			// As many as are ever needed: who waited here would wait behind whoever is slowest.
			MaxIdleConnsPerHost: maxIdle, MaxConnsPerHost: maxRequests + maxFills, IdleConnTimeout: idleTimeout, DisableCompression: true,
		},
		ModifyResponse: func(r *http.Response) error {
			leadsBack(r)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if hungUp(r) { // it may still read, where what it sent was no body
				refuse(w, r, http.StatusRequestTimeout, "canceled", "what was sent broke off, or is no body")
				return
			}
			cfg.Log.WarnContext(r.Context(), "the cache can't be reached", "path", r.URL.Path, "error", err)
			away(w, r)
		},
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
}

// incoming is a body that a client sends, and knows whether that broke off: the
// request's context ends only when what reads it has ended.
type incoming struct {
	io.ReadCloser

	broken atomic.Bool
}

// Read implements io.Reader.
func (i *incoming) Read(p []byte) (int, error) {
	n, err := i.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, http.ErrBodyReadAfterClose) {
		i.broken.Store(true)
	}
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}

// hungUp tells whether it is the client that a request failed by.
func hungUp(r *http.Request) bool {
	body, ok := r.Body.(*incoming)
	return r.Context().Err() != nil || ok && body.broken.Load()
}

// newTier keeps what passes.
func newTier(cfg Config, origin *url.URL, proxy *httputil.ReverseProxy) (*tier, error) {
	tally := &tally{}
	shelf, err := openShelf(cfg.Dir, cfg.Bytes, tally, cfg.Log)
	if err != nil {
		return nil, err
	}
	t := &tier{
		shelf: shelf, origin: &url.URL{Scheme: origin.Scheme, Host: origin.Host}, transport: proxy.Transport, next: proxy,
		bounds: transfer.Bounds{Idle: idle, Whole: longest}, log: cfg.Log, tally: tally,
		stages: stages{of: map[name]*stage{}}, fills: map[name]*fill{},
	}
	proxy.ModifyResponse = func(r *http.Response) error {
		leadsBack(r)
		return t.answered(r)
	}
	return t, nil
}

// Figures are what the copies did, and what they take; all zero where nothing is
// kept.
func (d *Door) Figures() Figures {
	t := d.tier.Load()
	if t == nil {
		return Figures{}
	}
	f := t.tally.figures()
	holds := t.shelf.holds()
	f.Entries, f.Bytes, f.Limit = holds.entries, holds.bytes, d.cfg.Bytes
	return f
}

// over is by how much the disk is too full.
func (c Config) over() int64 {
	if c.Over == nil {
		return 0
	}
	return c.Over()
}

// Addr is where the door is, host:port.
func (d *Door) Addr() string { return d.listener.Addr().String() }

// Close stops listening, of a door that was not run.
func (d *Door) Close() error {
	if err := errors.Join(d.guests.Close(), d.listener.Close()); err != nil {
		return fmt.Errorf("close the door to the cache: %w", err)
	}
	return nil
}

// Run answers until ctx ends. The folder must be this process's alone by now.
func (d *Door) Run(ctx context.Context) error {
	server := &http.Server{
		Handler: only(d.fairly(d.handler())), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ConnContext: inContext, ErrorLog: slog.NewLogLogger(d.cfg.Log.Handler(), slog.LevelDebug),
	}
	d.keepPort()
	if t := d.tier.Load(); t != nil {
		keeping, end := context.WithCancel(ctx)
		kept := make(chan struct{})
		go func() {
			defer close(kept)
			t.maintain(keeping, d.cfg.over)
		}()
		defer func() {
			end()
			<-kept
		}()
	}
	defer d.bring(ctx)()
	served := make(chan error, 1)
	go func() { served <- d.serve(server) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the cache's clients: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := server.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if stopped := <-served; !errors.Is(stopped, http.ErrServerClosed) {
		err = errors.Join(err, stopped)
	}
	if err != nil {
		return fmt.Errorf("stop serving the cache's clients: %w", err)
	}
	return nil
}

// serve has a server take what comes either way, until it stops.
func (d *Door) serve(server *http.Server) error {
	relayed := make(chan error, 1)
	go func() { relayed <- server.Serve(d.guests) }()
	err := server.Serve(d.listener)
	if !errors.Is(err, http.ErrServerClosed) {
		_ = server.Close() // it is told why
	}
	return errors.Join(err, <-relayed)
}

// prefixes are the paths of the cache's protocols, and of the registry's.
var prefixes = []string{images, "/twirp/github.actions.results.api.v1.CacheService/", "/twirp/github.actions.results.api.v1.ArtifactService/", "/_apis/artifactcache/", "/_cache/", "/cache/"}

// only lets through what is the cache's or the registry's. Paths that could mean another one to who
// cleans them first are not.
func only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := keySigns.Replace(r.URL.EscapedPath())
		plain := !strings.Contains(path, "//") && !strings.ContainsAny(path, "%\\")
		for part := range strings.SplitSeq(path, "/") {
			plain = plain && part != "." && part != ".." // sccache's keys begin with a dot
		}
		if !plain || !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(path, p) }) {
			refuse(w, r, http.StatusNotFound, "not_found", "only the cache and the registry are here")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// keySigns are signs of keys that many clients escape, and that mean nothing in a
// path.
var keySigns = strings.NewReplacer("%2B", "+", "%2b", "+", "%3D", "=", "%3d", "=", "%3A", ":", "%3a", ":", "%40", "@", "%2C", ",", "%2c", ",", "%7E", "~", "%7e", "~")
