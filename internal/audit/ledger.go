package audit

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times and sizes of chaining.
const (
	chainInterval = time.Second
	// chainBatch is how many events become entries in one transaction.
	chainBatch = 500
)

// Store keeps the outbox, the chains and their checkpoints. Whatever it keeps
// of a chain it never changes.
type Store interface {
	// RecordAudit puts events into the outbox, all or none.
	RecordAudit(ctx context.Context, events []nimbus.AuditEvent) error
	// ChainAudit moves the oldest events of the outbox, at most so many, to the
	// ends of their chains, and tells how many they were: link makes the
	// additions. All of it is one transaction; of two that do so at once one
	// waits for the other.
	ChainAudit(ctx context.Context, most int, link Link) (int, error)
	// AuditEntries lists entries of an org's chain behind a number (before it,
	// where the newest come first; 0 for all), at most so many.
	AuditEntries(ctx context.Context, orgID string, f nimbus.AuditFilter, after int64, most int) ([]nimbus.AuditEntry, error)
	// AuditCheckpoints lists checkpoints behind a number in the order of the chain.
	AuditCheckpoints(ctx context.Context, orgID string, after int64, most int) ([]nimbus.AuditCheckpoint, error)
}

// Link makes entries of events: their place is behind the heads of their
// chains. It has no other effect, and may be called again.
type Link func(now time.Time, heads map[string]Head, events []nimbus.AuditEntry) ([]nimbus.AuditEntry, []nimbus.AuditCheckpoint)

// Config is how the ledger behaves.
type Config struct {
	// Lead runs work while this replica leads; nil where there is one alone.
	Lead func(ctx context.Context, work func(context.Context))
	Log  *slog.Logger // required
}

// Ledger chains what is in the outbox, and reads the chains. It implements
// lifecycle.Service.
type Ledger struct {
	cfg   Config
	store Store
	key   ed25519.PrivateKey
}

// Open reads the key that signs, and makes it at the first start.
func Open(ctx context.Context, cfg Config, store Store, secrets Secrets) (*Ledger, error) {
	key, err := openKey(ctx, secrets)
	if err != nil {
		return nil, err
	}
	return &Ledger{cfg: cfg, store: store, key: key}, nil
}

// Name implements lifecycle.Service.
func (*Ledger) Name() string { return "audit" }

// Run moves events into the chains until ctx ends. Of many replicas one does it
// at a time.
func (l *Ledger) Run(ctx context.Context, ready func()) error {
	ready()
	if l.cfg.Lead == nil {
		l.work(ctx)
		return nil
	}
	l.cfg.Lead(ctx, l.work)
	return nil
}

func (l *Ledger) work(ctx context.Context) {
	tick := time.NewTicker(chainInterval)
	defer tick.Stop()
	for {
		if err := l.Chain(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Log.WarnContext(ctx, "chaining audit events failed, it is tried again", "in", chainInterval, "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Chain moves all that is in the outbox into the chains, a batch at a time.
func (l *Ledger) Chain(ctx context.Context) error {
	for {
		n, err := l.store.ChainAudit(ctx, chainBatch, l.link)
		if err != nil || n < chainBatch {
			return err
		}
	}
}

// link is a Link: each chain that grows gets a checkpoint, so that no entry is
// without one, and each head that a chain had is a checkpoint's.
func (l *Ledger) link(now time.Time, heads map[string]Head, events []nimbus.AuditEntry) ([]nimbus.AuditEntry, []nimbus.AuditCheckpoint) {
	entries := make([]nimbus.AuditEntry, len(events))
	var grown []string
	before := map[string]int64{}
	for i, e := range events {
		head := heads[e.OrgID]
		entries[i] = head.Next(e)
		heads[e.OrgID] = head
		if !slices.Contains(grown, e.OrgID) {
			grown = append(grown, e.OrgID)
			before[e.OrgID] = head.Seq - 1
		}
	}
	checkpoints := make([]nimbus.AuditCheckpoint, len(grown))
	for i, orgID := range grown {
		checkpoints[i] = sign(l.key, orgID, before[orgID], heads[orgID], now)
	}
	return entries, checkpoints
}
