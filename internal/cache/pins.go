package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Pins keep an entry that was found, or is read, from making room. They are in
// SQL, so that no replica removes what another one reads: one lasts as long as
// it takes a replica that has lost its database to notice.
const (
	PinFor = 5 * time.Minute // from each time that it is found or read
	// pinAgain is how often one is written, and not with each hit.
	pinAgain = time.Minute
	mostPins = 100_000 // remembered
)

// pins remembers which entries this replica has pinned, and who reads.
type pins struct {
	mu      sync.Mutex
	at      map[int64]time.Time
	readers map[*content]time.Time
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

// enter and leave tell who reads.
func (p *pins) enter(c *content, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readers[c] = now
}

func (p *pins) leave(c *content) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.readers, c)
}

// read are the entries that are read, but by those that take too long.
func (p *pins) read(since time.Time) (ids []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, began := range p.readers {
		if began.After(since) {
			ids = append(ids, c.entry.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// forget drops those that mean nothing any more.
func (p *pins) forget(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, at := range p.at {
		if now.Sub(at) >= pinAgain {
			delete(p.at, id)
		}
	}
}

// pin keeps an entry from making room. ok is false when it has done so.
func (s *Service) pin(ctx context.Context, id int64) (ok bool, err error) {
	now := s.clock.Now()
	if s.pins.fresh(id, now) {
		return true, nil
	}
	if ok, err = s.store.PinCache(ctx, id, PinFor); err != nil {
		return false, fmt.Errorf("keep an entry: %w", err)
	}
	if ok {
		s.pins.note(id, now)
	}
	return ok, nil
}

// keep pins once more what is read. It is called once each pinAgain.
func (s *Service) keep(ctx context.Context) error {
	now := s.clock.Now()
	s.pins.forget(now)
	s.credits.forget(now.Add(-s.limits.Idle))
	var errs []error
	for _, id := range s.pins.read(now.Add(-s.limits.Read)) {
		if err := s.store.KeepCache(ctx, id, PinFor); err != nil {
			errs = append(errs, fmt.Errorf("keep an entry that is read: %w", err))
		}
	}
	return errors.Join(errs...)
}
