package cache

import (
	"cmp"
	"log/slog"
	"sync"
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
	return l
}

// Config is what the service needs.
type Config struct {
	Store  Store
	Blobs  Blobs
	Limits Limits
	Clock  nimbus.Clock // of this replica, for pauses; the machine's if nil
	Log    *slog.Logger
}

// Service is the cache of all orgs. Safe for concurrent use, and many replicas
// may serve one store.
type Service struct {
	store  Store
	blobs  Blobs
	limits Limits
	clock  nimbus.Clock
	log    *slog.Logger
	pins   pins
}

// New returns the service.
func New(cfg Config) *Service {
	if cfg.Clock == nil {
		cfg.Clock = nimbus.SystemClock{}
	}
	return &Service{store: cfg.Store, blobs: cfg.Blobs, limits: cfg.Limits.WithDefaults(), clock: cfg.Clock, log: cfg.Log,
		pins: pins{at: map[int64]time.Time{}}}
}

// Times of pins: they are in SQL, so that no replica removes what another one
// reads.
const (
	pinFor   = 5 * time.Minute
	pinAgain = time.Minute // not to write it with each hit
	mostPins = 100_000     // remembered
)

// pins remembers which entries this replica has pinned, and when.
type pins struct {
	mu sync.Mutex
	at map[int64]time.Time
}

// fresh tells whether an entry was pinned lately.
func (p *pins) fresh(id int64, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.at[id]
	return ok && now.Sub(at) < pinAgain
}

func (p *pins) note(id int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.at) >= mostPins {
		clear(p.at) // they are written once more, no harm
	}
	p.at[id] = now
}

func (p *pins) forget(id int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.at, id)
}
