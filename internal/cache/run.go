package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// flushEvery is how often hits and misses are written.
	flushEvery = 10 * time.Second
	sweepEvery = time.Minute
	// mostFinds is of how many repositories hits are counted until they are
	// written; more are not counted.
	mostFinds = 10_000
)

// Name implements lifecycle.Service.
func (*Service) Name() string { return "cache" }

// Run writes hits and misses down, keeps what is read, has the content go of what
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
				s.log.WarnContext(ctx, "the last hits and misses of caches are not written", "error", err)
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

// whose and finds are what was looked for since the last flush.
type (
	whose struct{ org, repo string }
	finds struct{ hits, misses int64 }
)

// tally counts in memory: a look-up only reads.
type tally struct {
	mu    sync.Mutex
	finds map[whose]finds
}

func (t *tally) add(w whose, f finds) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, known := t.finds[w]
	if !known && len(t.finds) >= mostFinds {
		return
	}
	t.finds[w] = finds{now.hits + f.hits, now.misses + f.misses}
}

// take empties the tally.
func (t *tally) take() map[whose]finds {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.finds
	t.finds = map[whose]finds{}
	return all
}

func (s *Service) found(c Caller, ok bool) {
	f := finds{misses: 1}
	if ok {
		f = finds{hits: 1}
	}
	s.tally.add(whose{c.OrgID, c.Repo}, f)
}

func (s *Service) flush(ctx context.Context) error {
	var errs []error
	for w, f := range s.tally.take() {
		if err := s.store.CountCacheFinds(ctx, w.org, w.repo, f.hits, f.misses); err != nil {
			s.tally.add(w, f)
			errs = append(errs, fmt.Errorf("count hits and misses: %w", err))
		}
	}
	return errors.Join(errs...)
}
