// Package server puts the control plane together, in one of two profiles:
// embedded (Open: one process, one directory) or as one of many replicas on a
// database that they share (OpenReplica). It is the only place that knows all
// rooms; each of them knows only what it needs of the others.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/audit"
	"github.com/nimbus-ci/nimbus/internal/backup"
	"github.com/nimbus-ci/nimbus/internal/blob/breaker"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/datadir"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/lifecycle"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/shells"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/telemetry"
	"github.com/nimbus-ci/nimbus/internal/traces"
	"github.com/nimbus-ci/nimbus/web"
)

// Config is the embedded profile: everything in one process and one directory.
type Config struct {
	// Data is the directory that holds everything, made when it isn't there.
	// One process at a time may use it. Required.
	Data string
	// Fresh begins with empty books. What the agent has running is kept, for
	// it to be found and ended.
	Fresh bool
	// Listener takes connections; the server closes it. Required.
	Listener net.Listener
	// TLS is how connections are encrypted; nil for none, which is for
	// listeners of this machine alone.
	TLS *tls.Config
	// PublicURL is where people reach the dashboard, for links; "" where that
	// is not known.
	PublicURL string
	// AllowTrustedLocal lets webhook jobs, and jobs of other orgs than the
	// default one, run on the local executor.
	AllowTrustedLocal bool
	// GitHub is the App to connect. It is kept, sealed under the master key:
	// nil means the one that was connected before, if any.
	GitHub *GitHub
	// MasterKey is the key of what is sealed. Default: master.key in Data, made
	// when it isn't there.
	MasterKey identity.KeySource
	Log       *slog.Logger // required

	Operations

	loopback net.Listener // for the agent of this machine, beside TLS
}

// AdminTokenFile is where the administrator's token is kept, so that the command
// line on the same machine works without set-up.
const AdminTokenFile = "admin.token"

// Server is a control plane. It implements lifecycle.Service.
type Server struct {
	cfg       Config
	masterKey identity.KeySource
	tokenFile string // where the first administrator's token is kept; "" for nowhere

	store     *store.Store
	logs      logs.Store
	copies    *logCopies // nil: there is no ClickHouse
	blobs     httpapi.Blobs
	saved     cache.Blobs    // what jobs save for later ones; nil for no cache
	images    registry.Blobs // and images; nil for no registry
	bus       bus.Bus
	lead      func(context.Context, func(context.Context)) // nil: alone
	leadAudit func(context.Context, func(context.Context)) // the same of the audit ledger
	leadShell func(context.Context, func(context.Context)) // and of shells
	leadCache func(context.Context, func(context.Context)) // and of the cache
	leadTelem func(context.Context, func(context.Context)) // and of jobs' telemetry
	leadImage func(context.Context, func(context.Context)) // and of the registry
	leadLogs  func(context.Context, func(context.Context)) // and of logs that are too old
	leadCopy  func(context.Context, func(context.Context)) // and of the copies of logs
	identity  *identity.Service
	scheduler *scheduler.Service
	github    *gitHub
	runs      *runs
	ledger    *audit.Ledger
	tally     *audit.Tally
	registry  *registry.Service // nil where there is no place for images
	cache     *jobCache         // nil where there is no place for what it keeps
	shells    *shells.Service
	traces    *traces.Service
	handler   http.Handler

	metrics   *telemetry.Metrics
	gate      *httpapi.Gate
	rates     *ratelimit.Overrides
	limiter   ratelimit.Limiter // of orgs; nil: alone
	alone     func() bool       // whether the limiter has lost the other replicas
	objects   *breaker.Store    // nil: there is no object store
	connected func() bool       // whether the bus reaches them
	ping      func(context.Context) error
	draining  atomic.Bool
	ballast   []byte // see there

	services   []lifecycle.Service // of the profile, started before the others
	closers    []func() error      // in the order of opening
	adminToken string
}

// Bounds of what is stored.
const maxLogBytes = 1 << 30 // of one attempt, compressed

// Open opens the data directory and everything in it. Codes: conflict when
// another process uses it. The caller closes the server.
func Open(ctx context.Context, cfg Config) (_ *Server, err error) {
	cfg.Log = slog.New(requestLog{cfg.Log.Handler()})
	if cfg.MasterKey == (identity.KeySource{}) {
		cfg.MasterKey.File = filepath.Join(cfg.Data, "master.key")
	}
	s := &Server{cfg: cfg, masterKey: cfg.MasterKey, tokenFile: filepath.Join(cfg.Data, AdminTokenFile),
		bus: bus.NewInProcess()}
	s.openMetrics()
	s.metrics.Leads("scheduler", true)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	locked, err := datadir.Lock(cfg.Data)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, locked.Close)
	if err := backup.Finish(cfg.Data); err != nil {
		return nil, err
	}
	if cfg.Fresh {
		if err := s.clear(); err != nil {
			return nil, err
		}
	}
	if err := s.openStores(ctx); err != nil {
		return nil, err
	}
	return s, s.compose(ctx)
}

// issueAdmin makes the administrator's token at the first start, before any
// request is answered.
func (s *Server) issueAdmin(ctx context.Context) (err error) {
	if s.adminToken, _, err = s.identity.IssueAdmin(ctx); err != nil {
		return fmt.Errorf("make the administrator's token: %w", err)
	}
	if s.adminToken == "" || s.tokenFile == "" {
		return nil
	}
	if err := os.WriteFile(s.tokenFile, []byte(s.adminToken+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the administrator's token: %w", err)
	}
	return nil
}

// clear removes what an earlier process kept, but for the agent's sandboxes and
// the images.
func (s *Server) clear() error {
	for _, name := range []string{
		AdminTokenFile, "nimbus.db", "nimbus.db-wal", "nimbus.db-shm", "logs", "blobs", "cache", "registry", filepath.Join("agent", "credential.json"),
	} {
		if err := os.RemoveAll(filepath.Join(s.cfg.Data, name)); err != nil {
			return fmt.Errorf("clear data directory: %w", err)
		}
	}
	return nil
}

func (s *Server) openStores(ctx context.Context) (err error) {
	// SQLite would make it for all to read, and its other files like it.
	db, err := os.OpenFile(filepath.Join(s.cfg.Data, "nimbus.db"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make the database: %w", err)
	}
	db.Close()
	dsn := "sqlite:" + filepath.Join(s.cfg.Data, "nimbus.db")
	if s.store, err = store.Open(ctx, store.Config{DSN: dsn, Backups: filepath.Join(s.cfg.Data, "backups"), Observer: s.metrics}); err != nil {
		return err
	}
	s.closers = append(s.closers, s.store.Close)
	options := []segment.Option{segment.WithLog(s.cfg.Log)}
	if s.cfg.ClickHouse != nil {
		options = append(options, segment.WithOutbox())
	}
	lines, err := segment.Open(filepath.Join(s.cfg.Data, "logs"), maxLogBytes, options...)
	if err != nil {
		return fmt.Errorf("open logs: %w", err)
	}
	s.closers = append(s.closers, lines.Close)
	workspaces, err := fs.Open(filepath.Join(s.cfg.Data, "blobs"))
	if err != nil {
		return fmt.Errorf("open blobs: %w", err)
	}
	s.closers = append(s.closers, workspaces.Close)
	saved, err := fs.Open(filepath.Join(s.cfg.Data, "cache"), fs.WithReserve())
	if err != nil {
		return fmt.Errorf("open the cache: %w", err)
	}
	s.closers = append(s.closers, saved.Close)
	s.saved = saved
	images, err := fs.Open(filepath.Join(s.cfg.Data, "registry"), fs.WithReserve())
	if err != nil {
		return fmt.Errorf("open the registry: %w", err)
	}
	s.closers = append(s.closers, images.Close)
	s.images = images
	s.logs, s.blobs = lines, workspaces
	return nil
}

// compose makes the rooms that do the work, and the handler in front of them.
func (s *Server) compose(ctx context.Context) error {
	s.identity = identity.New(s.store, nimbus.SystemClock{})
	keyring, err := s.masterKey.OpenFor(ctx, s.store)
	if err != nil {
		return err
	}
	secrets := identity.Secrets{Store: s.store, Keyring: keyring}
	s.tally = audit.NewTally(s.store, s.cfg.Log)
	if s.ledger, err = audit.Open(ctx, audit.Config{Lead: s.leadAudit, Log: s.cfg.Log}, s.store, secrets); err != nil {
		return fmt.Errorf("open the audit ledger: %w", err)
	}
	s.github = newGitHub(secrets, s.store, nimbus.SystemClock{}, s.cfg.Log)
	s.runs = &runs{forge: s.github.forge, books: s.store}
	if s.lead != nil {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read this machine's name: %w", err)
		}
		others := newRoster(s.store, host+" "+s.cfg.Listener.Addr().String(), s.cfg.Log)
		s.github.replicas = others.count
		s.services = append(s.services, others)
	}
	if err := s.github.start(ctx, s.cfg.GitHub); err != nil {
		return fmt.Errorf("connect GitHub: %w", err)
	}
	s.scheduler = scheduler.New(scheduler.Config{AllowTrustedLocal: s.cfg.AllowTrustedLocal, PublicURL: s.cfg.PublicURL, Lead: s.lead, Observer: s.metrics},
		s.store, s.bus, s.github.forge, s.identity, s.cfg.Log)
	s.github.hosts = s.scheduler
	if err := s.openTraces(ctx); err != nil {
		return err
	}
	// What is in ClickHouse has a time of its own: retention has the first store alone.
	if kept, ok := s.logs.(keptLogs); ok {
		s.services = append(s.services, &logs.Retention{Store: kept, Books: s.store.LogBooks(), Lead: s.leadLogs, Log: s.cfg.Log})
	}
	if err := s.openCopies(); err != nil { // from here on s.logs is both stores
		return err
	}
	if err := s.openTelemetry(); err != nil {
		return err
	}
	s.watch()
	s.shells = shells.New(shells.Config{Store: s.store, Sealer: keyring, Logs: s.logs, Bus: s.bus, Look: s.look(), Lead: s.leadShell, Log: s.cfg.Log})
	s.rates = ratelimit.NewOverrides(s.store, s.cfg.Log)
	s.gate = httpapi.NewGate(s.cfg.Limits, s.rates, s.limiter, s.metrics)
	if err := s.openCache(ctx, secrets); err != nil {
		return err
	}
	images, err := s.openRegistry(ctx, secrets)
	if err != nil {
		return err
	}
	s.handler = httpapi.New(httpapi.Config{
		Jobs: s.scheduler, Queue: s.scheduler, Reruns: s.scheduler, Hosts: s.scheduler, Identity: s.identity, Logs: s.logs, LogBooks: s.store, Blobs: s.blobs, Bus: s.bus, Pages: web.Pages(),
		Webhook: s.github.webhook(s.admitDelivery), GitHub: s.github, Audit: s.ledger, Tally: s.tally, Rates: s.rates, OrgCache: s.store, Shells: s.shells, Telemetry: s.traces, Secure: s.cfg.TLS != nil,
		HostCertificates: s.cfg.TLS != nil && s.cfg.TLS.ClientCAs != nil, Log: s.cfg.Log,
		Checks: s.checks(), Metrics: s.metrics.Handler(s.cfg.Log), Observer: s.metrics, Gate: s.gate, Origins: s.cfg.Origins,
		Cache: s.cacheHandler(), Caches: s.caches(), Registry: images, Images: s.imagesOf(),
	})
	return s.issueAdmin(ctx)
}

// keptLogs is a store whose logs can be too old.
type keptLogs interface {
	logs.Store
	logs.Looker
}

// How often who waits for a shell looks into the store by itself: where no bus
// carries wake-ups between replicas, as often as a person who types notices.
const (
	lookAwoken = 500 * time.Millisecond
	lookAlone  = 40 * time.Millisecond
)

func (s *Server) look() time.Duration {
	if s.lead != nil && s.connected == nil {
		return lookAlone
	}
	return lookAwoken
}

// Name implements lifecycle.Service.
func (s *Server) Name() string { return "server" }

// Run serves until ctx ends. It calls ready once requests are answered.
func (s *Server) Run(ctx context.Context, ready func()) error {
	defer context.AfterFunc(ctx, s.drain)()
	return lifecycle.Group{Log: s.cfg.Log, Services: append(slices.Clone(s.services),
		s.identity, s.ledger, s.tally, s.rates, s.github, s.scheduler, s.shells, s.demand(), lifecycle.Func("http", s.serve),
	)}.Run(ctx, ready)
}

// Times of stopping.
const (
	// stopGrace is how long requests may take to end by themselves; then their
	// contexts end, which is how streams and long polls learn of it.
	stopGrace   = 300 * time.Millisecond
	stopTimeout = 5 * time.Second
)

func (s *Server) serve(ctx context.Context, ready func()) error {
	requests, endRequests := context.WithCancelCause(context.WithoutCancel(ctx))
	defer endRequests(nil)
	srv := httpapi.NewServer(s.handler, s.cfg.Log)
	srv.TLSConfig = s.cfg.TLS
	srv.BaseContext = func(net.Listener) context.Context { return requests }
	listeners, failed := errgroup.WithContext(context.WithoutCancel(ctx))
	listeners.Go(func() error {
		if s.cfg.TLS != nil {
			return served(srv.ServeTLS(s.cfg.Listener, "", ""))
		}
		return served(srv.Serve(s.cfg.Listener))
	})
	if s.cfg.loopback != nil {
		listeners.Go(func() error { return served(srv.Serve(s.cfg.loopback)) })
	}
	ready() // the listeners took connections since before: none is refused
	select {
	case <-failed.Done():
	case <-ctx.Done():
		s.drain()
		select { // whoever balances the load has to hear of it before connections are refused
		case <-time.After(s.cfg.Drain):
		case <-failed.Done():
		}
	}
	stopping := nimbus.Errorf(nimbus.CodeUnavailable, "the server is stopping")
	grace := time.AfterFunc(stopGrace, func() { endRequests(stopping) })
	defer grace.Stop()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close() // the rest is cut off
	}
	return errors.Join(listeners.Wait(), err)
}

func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// Close closes what Open opened, after Run has returned.
func (s *Server) Close() error {
	var errs []error
	for _, closing := range slices.Backward(s.closers) {
		errs = append(errs, closing())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// AdminToken is the administrator's token if this process made it, which is at
// the first start of a data directory, and "" otherwise.
func (s *Server) AdminToken() string { return s.adminToken }

// URL is the address at which this machine reaches the server.
func (s *Server) URL() string {
	if s.cfg.TLS != nil {
		return "https://" + s.cfg.Listener.Addr().String()
	}
	return "http://" + s.cfg.Listener.Addr().String()
}

// LoginPath makes the path of a link that signs a browser in, once.
func (s *Server) LoginPath(ctx context.Context) (string, error) {
	code, err := s.identity.CreateLogin(ctx, identity.Root(), "")
	if err != nil {
		return "", fmt.Errorf("make a login link: %w", err)
	}
	return "/login?code=" + url.QueryEscape(code), nil
}
