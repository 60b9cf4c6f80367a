package cache

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Limits bound what is kept. Zero fields mean the usual.
type Limits struct {
	Org     int64 // bytes of an org that has no quota of its own; 50 GiB
	Repo    int64 // of a repository, likewise; 10 GiB
	Total   int64 // of all; 200 GiB
	Entry   int64 // of one entry; 10 GiB
	Entries int64 // entries and uploads of an org; 100,000
	Uploads int64 // uploads of an org at once; 1,000
	// Idle is how long an upload may be without getting a byte; 5 minutes.
	Idle time.Duration
	// Unused is after how long an entry goes that nobody finds; 7 days.
	Unused time.Duration
	// Orphan is how old a content is at least that goes because nothing names it;
	// 24 hours. It is longer than any call takes that stores one.
	Orphan time.Duration
	// Read is how long who reads an entry keeps it from going; an hour.
	Read time.Duration
}

// WithDefaults is a copy whose zero fields are set.
func (l Limits) WithDefaults() Limits {
	l.Org = cmp.Or(l.Org, 50<<30)
	l.Repo = cmp.Or(l.Repo, 10<<30)
	l.Total = cmp.Or(l.Total, 200<<30)
	l.Entry = cmp.Or(l.Entry, 10<<30)
	l.Entries = cmp.Or(l.Entries, 100_000)
	l.Uploads = cmp.Or(l.Uploads, 1000)
	l.Idle = cmp.Or(l.Idle, 5*time.Minute)
	l.Unused = cmp.Or(l.Unused, 7*24*time.Hour)
	l.Orphan = cmp.Or(l.Orphan, 24*time.Hour)
	l.Read = cmp.Or(l.Read, time.Hour)
	return l
}

// Config is what the service needs.
type Config struct {
	Store  Store
	Blobs  Blobs
	Limits Limits
	Clock  nimbus.Clock // of this replica, for pauses; the machine's if nil
	// Lead has one replica of many sweep; nil: this one.
	Lead func(context.Context, func(context.Context))
	Log  *slog.Logger
}

// Service is the cache of all orgs. Safe for concurrent use, and many replicas
// may serve one store. It implements lifecycle.Service, and must run: else nobody
// hears of hits, and what is read for long may be removed.
type Service struct {
	store  Store
	blobs  Blobs
	limits Limits
	clock  nimbus.Clock
	lead   func(context.Context, func(context.Context))
	log    *slog.Logger

	credits credits
	pins    pins
	tally   tally
	orphans orphans
	asked   asked
	wake    chan struct{} // something was removed, its content may go
}

// New returns the service.
func New(cfg Config) *Service {
	if cfg.Clock == nil {
		cfg.Clock = nimbus.SystemClock{}
	}
	if cfg.Lead == nil {
		cfg.Lead = func(ctx context.Context, work func(context.Context)) { work(ctx) }
	}
	return &Service{store: cfg.Store, blobs: cfg.Blobs, limits: cfg.Limits.WithDefaults(), clock: cfg.Clock, lead: cfg.Lead, log: cfg.Log,
		credits: credits{of: map[int64]*credit{}},
		pins:    pins{at: map[int64]time.Time{}, readers: map[*content]time.Time{}},
		tally:   tally{uses: map[whose]Use{}}, wake: make(chan struct{}, 1)}
}
