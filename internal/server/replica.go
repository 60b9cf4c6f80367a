package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/bus/redis"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/leader"
	"github.com/nimbus-ci/nimbus/internal/lifecycle"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// ReplicaConfig is the scale profile: any number of processes that keep
// nothing, behind a plain load balancer.
type ReplicaConfig struct {
	// Database is the postgres:// URL that all replicas have. Required.
	Database string
	// DatabaseWait is how long a start waits for a database that does not answer.
	DatabaseWait time.Duration
	// Redis is the redis:// URL that carries wake-ups between replicas. Without
	// one they look into the database, which is slower and as right.
	Redis string
	// S3 is where uploaded files are kept, what jobs cache, and images. Nil: files in
	// the database, no cache and no registry.
	S3 *s3.Config
	// MasterKey is the key of what is sealed; it is the same for all replicas,
	// and its file is made when it isn't there. Required.
	MasterKey identity.KeySource
	// AdminTokenFile is where the administrator's token is kept by the replica
	// that makes it; "" for nowhere.
	AdminTokenFile string

	Listener          net.Listener // see Config
	TLS               *tls.Config
	PublicURL         string // see Config
	AllowTrustedLocal bool
	GitHub            *GitHub
	Log               *slog.Logger

	Operations
}

// blobSweepInterval is how often the leader removes what uploads that never
// ended have left.
const blobSweepInterval = time.Hour

// ballast is memory that a replica asks for and never touches, so that it takes
// up none. The collector runs when the heap has doubled: without it a replica
// with few hosts, whose heap is small, spends a fifth of its CPU on collecting.
const ballast = 64 << 20

// OpenReplica opens the database and what is in it. Two replicas may do so at
// once. The caller closes the server.
func OpenReplica(ctx context.Context, cfg ReplicaConfig) (_ *Server, err error) {
	cfg.Log = slog.New(requestLog{cfg.Log.Handler()})
	s := &Server{ballast: make([]byte, ballast), masterKey: cfg.MasterKey, tokenFile: cfg.AdminTokenFile, cfg: Config{
		Listener: cfg.Listener, TLS: cfg.TLS, PublicURL: cfg.PublicURL, AllowTrustedLocal: cfg.AllowTrustedLocal, GitHub: cfg.GitHub, Log: cfg.Log,
		Operations: cfg.Operations,
	}}
	s.openMetrics()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	err = awaited(ctx, cfg.Log, cfg.DatabaseWait, func(ctx context.Context) (err error) {
		s.store, err = store.Open(ctx, store.Config{DSN: cfg.Database, Observer: s.metrics})
		return err
	})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.store.Close)
	var options []store.LogsOption
	if cfg.ClickHouse != nil {
		options = append(options, store.WithOutbox())
	}
	if s.logs, err = s.store.Logs(maxLogBytes, options...); err != nil {
		return nil, fmt.Errorf("open logs: %w", err)
	}
	sweepers, err := s.openBlobs(ctx, cfg.S3)
	if err != nil {
		return nil, err
	}
	if err := s.openBus(cfg); err != nil {
		return nil, err
	}
	s.lead = s.leading("scheduler", leader.Elector{Store: s.store, Name: "scheduler", Log: cfg.Log}.Run)
	sweep := s.leading("blobs", leader.Elector{Store: s.store, Name: "blobs", Log: cfg.Log}.Run)
	s.leadShell = s.leading("shells", leader.Elector{Store: s.store, Name: "shells", Log: cfg.Log}.Run)
	s.leadCache = s.leading("cache", leader.Elector{Store: s.store, Name: "cache", Log: cfg.Log}.Run)
	s.leadLogs = s.leading("logs", leader.Elector{Store: s.store, Name: "logs", Log: cfg.Log}.Run)
	s.leadCopy = s.leading("log copies", leader.Elector{Store: s.store, Name: "log copies", Log: cfg.Log}.Run)
	s.leadTelem = s.leading("telemetry", leader.Elector{Store: s.store, Name: "telemetry", Log: cfg.Log}.Run)
	s.leadImage = s.leading("registry", leader.Elector{Store: s.store, Name: "registry", Log: cfg.Log}.Run)
	s.leadAudit = s.leading("audit", leader.Elector{Store: s.store, Name: "audit", Log: cfg.Log}.Run)
	s.services = append(s.services, lifecycle.Func("blob sweep", func(ctx context.Context, ready func()) error {
		ready()
		sweep(ctx, func(ctx context.Context) { sweepBlobs(ctx, sweepers, cfg.Log) })
		return nil
	}))
	return s, s.compose(ctx)
}

func (s *Server) openBus(cfg ReplicaConfig) error {
	if cfg.Redis == "" {
		s.bus = bus.NewInProcess()
		return nil
	}
	b, err := redis.Open(cfg.Redis, cfg.Log)
	if err != nil {
		return err
	}
	s.bus, s.connected, s.ping = b, b.Connected, b.Ping
	s.services = append(s.services, b)
	s.closers = append(s.closers, b.Close)
	return s.openLimits(cfg.Redis)
}

func sweepBlobs(ctx context.Context, places []blob.Sweeper, log *slog.Logger) {
	tick := time.NewTicker(blobSweepInterval)
	defer tick.Stop()
	for {
		for _, place := range places {
			if err := place.Sweep(ctx); err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "removing unfinished uploads failed, it is tried again", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
