package logs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// RetentionBooks says how long logs are kept.
type RetentionBooks interface {
	// Orgs returns the ids of up to limit orgs that sort after one.
	Orgs(ctx context.Context, after string, limit int) ([]string, error)
	// LogOver tells since when an attempt is over, zero for one that isn't, and
	// whether its log is whole.
	LogOver(ctx context.Context, key nimbus.LogKey) (since time.Time, whole bool, err error)
	// LogRetention is for how many days an org's logs are kept, 0 for ever.
	LogRetention(ctx context.Context, orgID string) (days int32, own bool, err error)
}

// Bounds of one look at what is too old.
const (
	retentionEvery = time.Hour
	retentionPage  = 200
)

// Retention removes the logs of attempts that are too old. It implements
// lifecycle.Service.
type Retention struct {
	Store interface {
		Store
		Looker
	}
	Books RetentionBooks
	// Lead runs work where one replica at a time does it; nil: alone.
	Lead func(context.Context, func(context.Context))
	Log  *slog.Logger
	Now  func() time.Time // nil: time.Now
}

// Name implements lifecycle.Service.
func (r *Retention) Name() string { return "log-retention" }

// Run implements lifecycle.Service.
func (r *Retention) Run(ctx context.Context, ready func()) error {
	ready()
	if r.Lead == nil {
		r.sweepForEver(ctx)
		return nil
	}
	r.Lead(ctx, r.sweepForEver)
	return nil
}

func (r *Retention) sweepForEver(ctx context.Context) {
	tick := time.NewTicker(retentionEvery)
	defer tick.Stop()
	for {
		if n, err := r.Sweep(ctx); err != nil && ctx.Err() == nil {
			r.Log.Error("old logs could not be removed", "error", err)
		} else if n > 0 {
			r.Log.Info("old logs were removed", "attempts", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Sweep removes what is too old now, and returns of how many attempts.
func (r *Retention) Sweep(ctx context.Context) (removed int, err error) {
	for after := ""; ; {
		orgs, err := r.Books.Orgs(ctx, after, retentionPage)
		if err != nil || len(orgs) == 0 {
			return removed, err
		}
		for _, org := range orgs {
			n, err := r.sweepOrg(ctx, org)
			removed += n
			if err != nil {
				return removed, err
			}
			after = org
		}
	}
}

// sweepOrg goes through an org's logs from the oldest to the first attempt that is not
// old enough. One whose last line is young is kept, and one that goes on: a job may take
// days, and say nothing for long.
func (r *Retention) sweepOrg(ctx context.Context, org string) (removed int, err error) {
	days, _, err := r.Books.LogRetention(ctx, org)
	if err != nil || days == 0 {
		return 0, err
	}
	now := r.Now
	if now == nil {
		now = time.Now
	}
	before := now().Add(-time.Duration(days) * 24 * time.Hour)
	for after := ""; ; {
		ids, err := r.Store.List(ctx, org, after, retentionPage)
		if err != nil || len(ids) == 0 {
			return removed, err
		}
		for _, id := range ids {
			if at, ok := nimbus.IDTime(nimbus.PrefixAttempt, id); !ok || !at.Before(before) {
				return removed, nil
			}
			after = id
			key := nimbus.LogKey{OrgID: org, AttemptID: id}
			c, err := r.Store.Counts(ctx, key)
			if Aborts(ctx, err) {
				return removed, err
			}
			if err != nil { // one that is damaged keeps no other
				r.Log.Error("a log can't be looked into, and so is kept", "attempt", id, "error", err)
				continue
			}
			if !c.Last.Before(before) {
				continue
			}
			if over, _, err := r.Books.LogOver(ctx, key); err != nil || over.IsZero() {
				if err != nil {
					return removed, fmt.Errorf("ask whether %s is over: %w", id, err)
				}
				continue
			}
			switch err := r.Store.Delete(ctx, key); {
			case Aborts(ctx, err):
				return removed, fmt.Errorf("remove the log of %s: %w", id, err)
			case err != nil:
				r.Log.Error("an old log can't be removed, it is tried again", "attempt", id, "error", err)
			default:
				removed++
			}
		}
	}
}
