package ratelimit

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times of what is known of orgs' rates.
const (
	// ratesInterval is how often they are read: a change counts on each replica
	// so soon, and at once where it was made.
	ratesInterval = 2 * time.Second
	ratesWithin   = time.Second
)

// Store keeps the rates of orgs.
type Store interface {
	// OrgRates are those of all orgs, and which org each GitHub owner is of.
	OrgRates(ctx context.Context) (rates []nimbus.OrgRate, orgOf map[string]string, err error)
	// RatesOfOrg are those of one, by kind.
	RatesOfOrg(ctx context.Context, orgID string) ([]nimbus.OrgRate, error)
	// SetOrgRate keeps one; a Rate of "" takes it away, and is no error where
	// there is none. The event is written in the same transaction.
	SetOrgRate(ctx context.Context, r nimbus.OrgRate, e nimbus.AuditEvent) error
}

// Overrides are the rates of orgs that are not the usual ones, as far as this
// replica knows them. It implements lifecycle.Service; all methods may be called
// concurrently.
type Overrides struct {
	store Store
	log   *slog.Logger
	known atomic.Pointer[knownRates]
}

// knownRates are never changed, only replaced.
type knownRates struct {
	rates map[nimbus.OrgRate]Rate // keys without their Rate
	orgOf map[string]string       // by GitHub owner
}

// NewOverrides returns those that a store keeps. None is known before Refresh.
func NewOverrides(store Store, log *slog.Logger) *Overrides {
	o := &Overrides{store: store, log: log}
	o.known.Store(&knownRates{})
	return o
}

// Name implements lifecycle.Service.
func (*Overrides) Name() string { return "rates" }

// Run reads the rates again and again until ctx ends. While they can't be read,
// what was read last goes on to count.
func (o *Overrides) Run(ctx context.Context, ready func()) error {
	tick := time.NewTicker(ratesInterval)
	defer tick.Stop()
	ready()
	for {
		if err := o.Refresh(ctx); err != nil && ctx.Err() == nil {
			o.log.WarnContext(ctx, "reading the rates of orgs failed, it is tried again", "in", ratesInterval, "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Refresh reads the rates now.
func (o *Overrides) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ratesWithin)
	defer cancel()
	all, orgOf, err := o.store.OrgRates(ctx)
	if err != nil {
		return err
	}
	k := &knownRates{rates: make(map[nimbus.OrgRate]Rate, len(all)), orgOf: orgOf}
	for _, r := range all {
		rate, err := ParseRate(r.Rate)
		if err != nil {
			return err
		}
		k.rates[nimbus.OrgRate{OrgID: r.OrgID, Kind: r.Kind}] = rate
	}
	o.known.Store(k)
	return nil
}

// Of is an org's rate, or else the usual one. Without overrides all is usual.
func (o *Overrides) Of(orgID string, kind nimbus.RateKind, usual Rate) Rate {
	if o == nil {
		return usual
	}
	if r, set := o.known.Load().rates[nimbus.OrgRate{OrgID: orgID, Kind: kind}]; set {
		return r
	}
	return usual
}

// OfOwner is the rate of the org that a GitHub owner's repositories come into.
func (o *Overrides) OfOwner(owner string, kind nimbus.RateKind, usual Rate) Rate {
	if o == nil || owner == "" {
		return usual
	}
	orgID, known := o.known.Load().orgOf[strings.ToLower(owner)]
	if !known {
		orgID = nimbus.DefaultOrgID
	}
	return o.Of(orgID, kind, usual)
}

// List are the rates of an org that are not the usual ones.
func (o *Overrides) List(ctx context.Context, orgID string) ([]nimbus.OrgRate, error) {
	return o.store.RatesOfOrg(ctx, orgID)
}

// Set gives an org a rate of its own, or with "" the usual one again. Codes:
// invalid.
func (o *Overrides) Set(ctx context.Context, p nimbus.Principal, r nimbus.OrgRate) error {
	if !slices.Contains(nimbus.RateKinds(), r.Kind) {
		return nimbus.Errorf(nimbus.CodeInvalid, "this is no kind of rate").WithHint("the kinds are api, submissions and webhooks")
	}
	if r.Rate != "" {
		rate, err := ParseRate(r.Rate)
		if err != nil {
			return err
		}
		r.Rate = rate.String()
	}
	e := nimbus.AuditEvent{OrgID: r.OrgID, Actor: p.Actor(), Action: "rate.set", Target: string(r.Kind), Outcome: nimbus.AuditAllowed,
		Detail: map[string]string{"rate": cmp.Or(r.Rate, "usual")}}
	if err := o.store.SetOrgRate(ctx, r, e); err != nil {
		return err
	}
	if err := o.Refresh(ctx); err != nil { // it is set: the next reading finds it
		o.log.WarnContext(ctx, "reading the rates of orgs failed, it is tried again", "in", ratesInterval, "error", err)
	}
	return nil
}
