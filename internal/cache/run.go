package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// flushEvery is how often is written what caches were used for.
	flushEvery = 10 * time.Second
	sweepEvery = time.Minute
	// mostFinds is of how many repositories uses are counted until they are
	// written; more are not counted.
	mostFinds = 10_000
)

// Name implements lifecycle.Service.
func (*Service) Name() string { return "cache" }

// Run writes down what caches are used for, keeps what is read, has the content go of what
// was removed, and sweeps where this replica leads, until ctx ends.
func (s *Service) Run(ctx context.Context, ready func()) error {
	ready()
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		s.lead(ctx, s.sweepAll)
	}()
	defer func() { <-swept }()
	flush, keep := time.NewTicker(flushEvery), time.NewTicker(pinAgain)
	defer flush.Stop()
	defer keep.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			if err := s.after(ctx, s.flush); err != nil {
				s.log.WarnContext(ctx, "what caches were last used for is not written", "error", err)
			}
			return nil
		case <-flush.C:
			err = s.flush(ctx)
		case <-keep.C:
			err = s.keep(ctx)
		case <-s.wake:
			err = s.clear(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "keeping the books of caches failed, it is tried again", "error", err)
		}
	}
}

func (s *Service) sweepAll(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "sweeping caches failed, it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// removed has Run look for content that may go.
func (s *Service) removed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// whose is of which repository's cache something is.
type whose struct{ org, repo string }

// tally counts in memory what caches are used for since the last flush: neither a
// look-up nor a byte that is read costs a write.
type tally struct {
	mu   sync.Mutex
	uses map[whose]Use
}

func (t *tally) add(w whose, u Use) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, known := t.uses[w]
	if !known && len(t.uses) >= mostFinds {
		return
	}
	t.uses[w] = now.plus(u)
}

// take empties the tally.
func (t *tally) take() map[whose]Use {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.uses
	t.uses = map[whose]Use{}
	return all
}

func (s *Service) uses(orgID, repo string, u Use) { s.tally.add(whose{orgID, repo}, u) }

func (s *Service) flush(ctx context.Context) error {
	var errs []error
	for w, u := range s.tally.take() {
		if err := s.store.CountCacheUse(ctx, w.org, w.repo, u); err != nil {
			s.tally.add(w, u)
			errs = append(errs, fmt.Errorf("count what caches are used for: %w", err))
		}
	}
	return errors.Join(errs...)
}
