// Package server puts the control plane together. It is the only place that
// knows all rooms; each of them knows only what it needs of the others.
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
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/lifecycle"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
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
	// AllowTrustedLocal lets webhook jobs run on the local executor.
	AllowTrustedLocal bool
	// GitHub is the App to connect. It is kept, sealed under the master key:
	// nil means the one that was connected before, if any.
	GitHub *GitHub
	Log    *slog.Logger // required

	loopback net.Listener // for the agent of this machine, beside TLS
}

// AdminTokenFile is where the administrator's token is kept, so that the command
// line on the same machine works without set-up.
const AdminTokenFile = "admin.token"

// Server is a control plane. It implements lifecycle.Service.
type Server struct {
	cfg        Config
	lock       *os.File
	store      *store.Store
	logs       *segment.Store
	blobs      *fs.Store
	identity   *identity.Service
	scheduler  *scheduler.Service
	handler    http.Handler
	adminToken string
}

// Bounds of what is stored.
const maxLogBytes = 1 << 30 // of one attempt, compressed

// Open opens the data directory and everything in it. Codes: conflict when
// another process uses it. The caller closes the server.
func Open(ctx context.Context, cfg Config) (_ *Server, err error) {
	s := &Server{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if s.lock, err = lock(cfg.Data); err != nil {
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
	s.identity = identity.New(s.store, nimbus.SystemClock{})
	if err := s.compose(ctx); err != nil {
		return nil, err
	}
	if err := s.issueAdmin(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// issueAdmin makes the administrator's token at the first start, before any
// request is answered.
func (s *Server) issueAdmin(ctx context.Context) (err error) {
	if s.adminToken, _, err = s.identity.IssueAdmin(ctx); err != nil {
		return fmt.Errorf("make the administrator's token: %w", err)
	}
	if s.adminToken == "" {
		return nil
	}
	path := filepath.Join(s.cfg.Data, AdminTokenFile)
	if err := os.WriteFile(path, []byte(s.adminToken+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the administrator's token: %w", err)
	}
	return nil
}

// clear removes what an earlier process kept, but for the agent's sandboxes and
// the images.
func (s *Server) clear() error {
	for _, name := range []string{
		AdminTokenFile, "nimbus.db", "nimbus.db-wal", "nimbus.db-shm", "logs", "blobs", filepath.Join("agent", "credential.json"),
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
	if s.store, err = store.Open(ctx, store.Config{DSN: "sqlite:" + filepath.Join(s.cfg.Data, "nimbus.db")}); err != nil {
		return err
	}
	if s.logs, err = segment.Open(filepath.Join(s.cfg.Data, "logs"), maxLogBytes); err != nil {
		return fmt.Errorf("open logs: %w", err)
	}
	if s.blobs, err = fs.Open(filepath.Join(s.cfg.Data, "blobs")); err != nil {
		return fmt.Errorf("open blobs: %w", err)
	}
	return nil
}

// compose makes the rooms that do the work, and the handler in front of them.
func (s *Server) compose(ctx context.Context) error {
	b := bus.NewInProcess()
	var forge scheduler.Forge // nil without GitHub
	var webhook http.Handler
	g, err := s.keepGitHub(ctx)
	if err != nil {
		return fmt.Errorf("keep the GitHub App: %w", err)
	}
	if g != nil {
		app, handler, err := g.connect(s.processDelivery, s.cfg.Log)
		if err != nil {
			return fmt.Errorf("connect GitHub: %w", err)
		}
		forge, webhook = app, handler
	}
	s.scheduler = scheduler.New(scheduler.Config{AllowTrustedLocal: s.cfg.AllowTrustedLocal}, s.store, b, forge, s.identity, s.cfg.Log)
	s.handler = httpapi.New(httpapi.Config{
		Jobs: s.scheduler, Hosts: s.scheduler, Identity: s.identity, Logs: s.logs, Blobs: s.blobs, Bus: b, Pages: web.Pages(),
		Webhook: webhook, Ready: s.store.Ping, Secure: s.cfg.TLS != nil, Log: s.cfg.Log,
	})
	return nil
}

func (s *Server) processDelivery(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
	return s.scheduler.ProcessDelivery(ctx, d, ev)
}

// Name implements lifecycle.Service.
func (s *Server) Name() string { return "server" }

// Run serves until ctx ends. It calls ready once requests are answered.
func (s *Server) Run(ctx context.Context, ready func()) error {
	return lifecycle.Group{Log: s.cfg.Log, Services: []lifecycle.Service{
		s.identity, s.scheduler, lifecycle.Func("http", s.serve),
	}}.Run(ctx, ready)
}

// Times of stopping.
const (
	// stopGrace is how long requests may take to end by themselves; then their
	// contexts end, which is how streams and long polls learn of it.
	stopGrace   = 300 * time.Millisecond
	stopTimeout = 5 * time.Second
)

func (s *Server) serve(ctx context.Context, ready func()) error {
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	srv := httpapi.NewServer(s.handler, s.cfg.Log)
	srv.TLSConfig = s.cfg.TLS
	srv.BaseContext = func(net.Listener) context.Context { return requests }
	listeners, failed := errgroup.WithContext(ctx)
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
	<-failed.Done()
	grace := time.AfterFunc(stopGrace, endRequests)
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
	if s.blobs != nil {
		errs = append(errs, s.blobs.Close())
	}
	if s.logs != nil {
		errs = append(errs, s.logs.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
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
	code, err := s.identity.CreateLogin(ctx)
	if err != nil {
		return "", fmt.Errorf("make a login link: %w", err)
	}
	return "/login?code=" + url.QueryEscape(code), nil
}
