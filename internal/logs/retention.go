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
			switch gone, err := r.remove(ctx, nimbus.LogKey{OrgID: org, AttemptID: id}, before); {
			case Aborts(ctx, err):
				return removed, err
			case err != nil: // one that is damaged keeps no other
				r.Log.Error("an old log can't be removed, it is tried again", "attempt", id, "error", err)
			case gone:
				removed++
			}
		}
	}
}

// remove removes a log whose last line is old, of an attempt that is over.
func (r *Retention) remove(ctx context.Context, key nimbus.LogKey, before time.Time) (bool, error) {
	c, err := r.Store.Counts(ctx, key)
	if err != nil {
		return false, fmt.Errorf("look into a log: %w", err)
	}
	if !c.Last.Before(before) {
		return false, nil
	}
	over, _, err := r.Books.LogOver(ctx, key)
	if err != nil {
		return false, fmt.Errorf("ask whether an attempt is over: %w", err)
	}
	if over.IsZero() {
		return false, nil
	}
	if err := r.Store.Delete(ctx, key); err != nil {
		return false, fmt.Errorf("remove a log: %w", err)
	}
	return true, nil
}
