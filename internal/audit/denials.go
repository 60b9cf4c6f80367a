package audit

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of what is recorded of refusals.
const (
	denialInterval = 10 * time.Second
	// denialKinds is how many kinds of refusal are told apart until the next
	// flush, at most: of callers that are known, and as many of those that
	// aren't. Each time refillKinds of them are given back, so that a flood
	// leaves a few rows in each interval and no more.
	denialKinds = 1000
	refillKinds = 10
	// flushTimeout bounds the last flush, when the process ends.
	flushTimeout = 3 * time.Second
)

// Anonymous is the actor of a call by nobody that is known, and Other stands
// for what is not told apart any more.
const (
	Anonymous = "anonymous"
	Other     = "other"
)

// ActionDenied is the action of entries about refusals; their target is what
// was asked for.
const ActionDenied = "access.deny"

// Denials gathers refusals and puts one event a kind into the outbox, with how
// many there were: a flood of bad tokens fills neither the memory nor the
// ledger. It implements lifecycle.Service. The zero value is not ready.
type Denials struct {
	store interface {
		RecordAudit(ctx context.Context, events []nimbus.AuditEvent) error
	}
	log *slog.Logger

	mu     sync.Mutex
	counts map[denial]int64
	left   [2]int // kinds that may yet be told apart: of strangers, and of those known
}

// denial is a kind of refusal.
type denial struct {
	orgID, actor, target, network string
	code                          nimbus.Code
}

// NewDenials returns one that is empty.
func NewDenials(store Store, log *slog.Logger) *Denials {
	return &Denials{store: store, log: log, counts: map[denial]int64{}, left: [2]int{denialKinds, denialKinds}}
}

// Denied counts a refusal. actor is "" for a caller that nobody knows; from is
// its address, with or without a port.
func (d *Denials) Denied(orgID, actor, target string, code nimbus.Code, from string) {
	kind, pool := denial{orgID, actor, target, network(from), code}, 1
	if actor == "" {
		kind.actor, pool = Anonymous, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch _, toldApart := d.counts[kind]; {
	case toldApart:
	case d.left[pool] > 0:
		d.left[pool]--
	case actor == "":
		kind = denial{actor: Anonymous, target: Other, network: Other, code: code}
	default:
		kind = denial{actor: Other, target: Other, network: Other, code: code}
	}
	d.counts[kind]++
}

// network is the neighbourhood of an address: /24, or /64.
func network(from string) string {
	addr, err := netip.ParseAddr(from)
	if err != nil {
		withPort, err := netip.ParseAddrPort(from)
		if err != nil {
			return "unknown"
		}
		addr = withPort.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 24
	}
	prefix, _ := addr.Prefix(bits) // fits the family
	return prefix.String()
}

// Name implements lifecycle.Service.
func (*Denials) Name() string { return "denials" }

// Run flushes at an interval until ctx ends, and then once more.
func (d *Denials) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(denialInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.Flush(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
			defer cancel()
			d.Flush(last)
			return nil
		}
	}
}

// Flush puts what was gathered into the outbox. What can't be written is kept
// for the next time; no kinds are given back until then.
func (d *Denials) Flush(ctx context.Context) {
	d.mu.Lock()
	gathered := d.counts
	d.counts = make(map[denial]int64)
	d.mu.Unlock()
	var err error
	if len(gathered) > 0 {
		err = d.store.RecordAudit(ctx, eventsOf(gathered))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		for i := range d.left {
			d.left[i] = min(d.left[i]+refillKinds, denialKinds)
		}
		return
	}
	d.log.WarnContext(ctx, "recording refusals failed, it is tried again", "error", err)
	for kind, n := range gathered {
		d.counts[kind] += n
	}
}

func eventsOf(counts map[denial]int64) []nimbus.AuditEvent {
	events := make([]nimbus.AuditEvent, 0, len(counts))
	for kind, n := range counts {
		events = append(events, nimbus.AuditEvent{OrgID: kind.orgID, Actor: kind.actor, Action: ActionDenied, Target: kind.target,
			Outcome: nimbus.AuditDenied, Count: n, Detail: map[string]string{"code": string(kind.code), "network": kind.network}})
	}
	return events
}
