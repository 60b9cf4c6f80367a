// Package leader has the background work of many replicas done by one of them
// at a time. Who leads is a row in the database: a lease that is renewed, and a
// fencing number that grows with each change of leader. Work that writes checks
// the number in its own transaction, so that a leader that was paused past its
// lease changes nothing.
package leader

import (
	"context"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times of the lease. A dead leader is followed within Lease + Renew, less
// than the ten seconds that are promised.
const (
	Lease = 6 * time.Second
	Renew = 2 * time.Second
	// margin is how long before the end of a lease its work is stopped, counted
	// from when the last renewal was sent.
	margin = time.Second
)

// Store keeps who leads. Times are its own clock.
type Store interface {
	// Lead takes the leadership, or keeps it, for a time. leads is false while
	// somebody else has it. fence is of the term: it grows with each change.
	Lead(ctx context.Context, name, holder string, lease time.Duration) (fence int64, leads bool, err error)
	// Resign lets somebody else lead at once.
	Resign(ctx context.Context, name, holder string) error
}

// Term is one leadership, as work that writes proves it.
type Term struct {
	Name  string
	Fence int64
}

type termKey struct{}

// TermOf is the term in which work is done; ok is false for work that needs none.
func TermOf(ctx context.Context) (t Term, ok bool) {
	t, ok = ctx.Value(termKey{}).(Term)
	return t, ok
}

// Elector takes part in an election.
type Elector struct {
	Store Store
	Name  string // of the work
	Log   *slog.Logger
}

// Run does work while this replica leads, again each time that it becomes the
// leader, until ctx ends. work returns when its context ends; its context
// carries the term.
func (e Elector) Run(ctx context.Context, work func(context.Context)) {
	holder := nimbus.NewID("rep", time.Now())
	tick := time.NewTicker(Renew)
	defer tick.Stop()
	for ctx.Err() == nil {
		sent := time.Now()
		fence, leads, err := e.lead(ctx, holder)
		if err != nil && ctx.Err() == nil {
			e.Log.WarnContext(ctx, "the election failed, it is tried again", "work", e.Name, "error", err)
		}
		if leads {
			e.Log.InfoContext(ctx, "this replica leads", "work", e.Name, "term", fence)
			e.serve(context.WithValue(ctx, termKey{}, Term{e.Name, fence}), holder, fence, sent, work)
			e.Log.InfoContext(ctx, "this replica leads no more", "work", e.Name, "term", fence)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	resign, cancel := context.WithTimeout(context.WithoutCancel(ctx), Renew)
	defer cancel()
	if err := e.Store.Resign(resign, e.Name, holder); err != nil {
		e.Log.DebugContext(ctx, "the leadership was not given back; it ends by itself", "error", err)
	}
}

func (e Elector) lead(ctx context.Context, holder string) (int64, bool, error) {
	bounded, cancel := context.WithTimeout(ctx, Renew)
	defer cancel()
	return e.Store.Lead(bounded, e.Name, holder, Lease)
}

// serve does the work for as long as the term lasts, and returns once it has
// stopped.
func (e Elector) serve(ctx context.Context, holder string, fence int64, sent time.Time, work func(context.Context)) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		work(ctx)
	}()
	defer func() { <-ended }()
	defer stop()
	tick := time.NewTicker(Renew)
	defer tick.Stop()
	for {
		left := time.NewTimer(time.Until(sent.Add(Lease - margin)))
		select {
		case <-ctx.Done():
			left.Stop()
			return
		case <-left.C: // it could not be renewed in time
			return
		case <-tick.C:
		}
		left.Stop()
		at := time.Now()
		now, leads, err := e.lead(ctx, holder)
		switch {
		case err != nil: // the lease goes on until it ends
		case !leads || now != fence:
			return
		default:
			sent = at
		}
	}
}
