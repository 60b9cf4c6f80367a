package registry

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Limits bound what is kept. Zero fields mean the usual.
type Limits struct {
	Org     int64 // bytes of an org that has no quota of its own; 200 GiB
	Blob    int64 // of one blob; 64 GiB
	Uploads int64 // uploads of an org at once; 1,000
	// Idle is how long an upload may be without a request that brings bytes; 6
	// hours.
	Idle time.Duration
	// Grace is how long a blob stays that no manifest names, since it was pushed,
	// mounted or looked for; 24 hours.
	Grace time.Duration
	// Untagged is how long a manifest stays without a tag that nobody pulls; 30
	// days.
	Untagged time.Duration
	// Read is how long who reads a blob can do so after it was removed; an hour.
	Read time.Duration
	// Orphan is how old a content is at least that goes because nothing names it;
	// 24 hours. It is longer than any call takes that stores one.
	Orphan time.Duration
	// Mirror is how many bytes an org may have of what its mirrors fetched; 50 GiB.
	// It counts apart from Org, and makes room by itself.
	Mirror int64
	// Fresh is how long a mirror believes what a tag stands for; a minute.
	Fresh time.Duration
	// Patience is how long an upstream may take to say what a tag stands for, before
	// who asks gets what it was; 3 seconds.
	Patience time.Duration
	// Turn is how long who sends a large manifest waits for others that do; 30
	// seconds.
	Turn time.Duration
}

// WithDefaults is a copy whose zero fields are set.
func (l Limits) WithDefaults() Limits {
	l.Org = cmp.Or(l.Org, 200<<30)
	l.Blob = cmp.Or(l.Blob, 64<<30)
	l.Uploads = cmp.Or(l.Uploads, 1000)
	l.Idle = cmp.Or(l.Idle, 6*time.Hour)
	l.Grace = cmp.Or(l.Grace, 24*time.Hour)
	l.Untagged = cmp.Or(l.Untagged, 30*24*time.Hour)
	l.Read = cmp.Or(l.Read, time.Hour)
	l.Orphan = cmp.Or(l.Orphan, 24*time.Hour)
	l.Mirror = cmp.Or(l.Mirror, 50<<30)
	l.Fresh = cmp.Or(l.Fresh, time.Minute)
	l.Patience = cmp.Or(l.Patience, 3*time.Second)
	l.Turn = cmp.Or(l.Turn, 30*time.Second)
	return l
}

// Config is what the service needs.
type Config struct {
	Store Store
	Blobs Blobs
	// Key is a secret that all replicas have; the ids of uploads are signed by it.
	Key    []byte
	Limits Limits
	Clock  nimbus.Clock // of this replica, for pauses; the machine's if nil
	// Lead has one replica of many sweep; nil: this one.
	Lead func(context.Context, func(context.Context))
	Log  *slog.Logger
	// Secrets keeps the passwords of mirrors. Required where there are any.
	Secrets Secrets
	// Inside are registries, HOST:PORT, that mirrors may ask though they are at
	// addresses of the operator's own network, and without TLS.
	Inside []string
	// Mirrors hears what mirrors do; nil: nobody does.
	Mirrors MirrorObserver
}

// Service is the registry of all orgs. Safe for concurrent use, and many replicas
// may serve one store. It implements lifecycle.Service, and must run: else nothing
// is ever removed.
type Service struct {
	store  Store
	blobs  Blobs
	key    []byte
	limits Limits
	clock  nimbus.Clock
	lead   func(context.Context, func(context.Context))
	log    *slog.Logger

	room      room
	manifests *slots // large ones that come
	known     known
	uses      uses
	orphans   orphans

	secrets  Secrets
	inside   []string
	observer MirrorObserver
	mirrors  mirrors
}

// New returns the service.
func New(cfg Config) *Service {
	if cfg.Clock == nil {
		cfg.Clock = nimbus.SystemClock{}
	}
	if cfg.Lead == nil {
		cfg.Lead = func(ctx context.Context, work func(context.Context)) { work(ctx) }
	}
	if cfg.Mirrors == nil {
		cfg.Mirrors = nobodyHears{}
	}
	return &Service{secrets: cfg.Secrets, inside: cfg.Inside, observer: cfg.Mirrors, mirrors: newMirrors(cfg.Inside), store: cfg.Store, blobs: cfg.Blobs, key: cfg.Key, limits: cfg.Limits.WithDefaults(), clock: cfg.Clock, lead: cfg.Lead, log: cfg.Log,
		room: room{orgs: map[string]*held{}}, manifests: newSlots(manifestShares), known: newKnown(), uses: uses{at: map[named]time.Time{}}}
}

// afterwards bounds what is put right once a call is over, whether or not its
// caller still waits.
const afterwards = 30 * time.Second

// after does what must be done even if who asked has gone.
func (s *Service) after(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	return f(ctx)
}
