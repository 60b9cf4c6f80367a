package segment

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
)

const (
	// keptParts is how many files the journal has before lines in the oldest are
	// written to their logs, full frame or not. Most have been by then.
	keptParts = 2
	// maxBehind is how many there may be before appends are refused: a disk that
	// takes the journal and no frames.
	maxBehind = 16
	// syncsAtOnce: a file system makes one write of the syncs that come at once.
	syncsAtOnce = 8
	// everything is after each file of the journal.
	everything = math.MaxInt64
	tendEvery  = time.Second
)

// nudge has the keeper look now.
func (s *Store) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// keep writes lines to their logs in the background, until Close.
func (s *Store) keep() {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		case <-tick.C:
		}
		if err := s.tend(time.Now()); err != nil {
			s.log.Error("logs could not be written: the journal keeps them", "error", err)
		}
	}
}

// tend brings what is silent out of memory, and what is old out of the journal.
func (s *Store) tend(now time.Time) error {
	quiet := idle
	if s.pending.Load() > maxPending/2 {
		quiet = tendEvery
	}
	err := s.each(func(a *attempt) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if now.Sub(a.touched) < quiet {
			return nil
		}
		return a.seal()
	})
	if err != nil {
		return err
	}
	return s.settle(s.journal.number() - keptParts)
}

// each hands all logs in memory to do, some at once.
func (s *Store) each(do func(*attempt) error) error {
	s.mu.Lock()
	var all []*attempt
	for _, a := range s.open {
		a.refs++
		all = append(all, a)
	}
	s.mu.Unlock()
	var work errgroup.Group
	work.SetLimit(syncsAtOnce)
	for _, a := range all {
		work.Go(func() error {
			defer s.release(a)
			return do(a)
		})
	}
	return work.Wait()
}

// loaded returns the logs in memory. Those that are forgotten meanwhile are settled.
func (s *Store) loaded() []*attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.open))
}

// settle has the lines of the journal's files up to a number in synced frames, and
// removes the files that nobody needs any more.
func (s *Store) settle(upTo int64) error {
	s.settling.Lock()
	defer s.settling.Unlock()
	if upTo == everything {
		if err := s.journal.close(); err != nil { // the next append begins a file
			return err
		}
	}
	sealed := s.journal.number() // read before the logs are: what is appended meanwhile is not before it
	if upTo != everything {
		sealed--
	}
	if sealed <= s.journal.current().Sealed && upTo != everything {
		return s.drop()
	}
	err := s.each(func(a *attempt) error {
		a.mu.Lock()
		if a.since != 0 && a.since <= upTo {
			if err := a.seal(); err != nil {
				a.mu.Unlock()
				return err
			}
		}
		a.mu.Unlock()
		if oldest := a.oldest(); oldest == 0 || oldest > upTo {
			return nil
		}
		return a.sync()
	})
	if err != nil {
		return err
	}
	for _, a := range s.loaded() {
		if oldest := a.oldest(); oldest != 0 {
			sealed = min(sealed, oldest-1)
		}
	}
	if err := s.journal.change(func(st *state) { st.Sealed = max(st.Sealed, sealed) }); err != nil {
		return err
	}
	return s.drop()
}

// drop removes the files of the journal that nobody needs any more.
func (s *Store) drop() error {
	st := s.journal.current()
	before := st.Sealed + 1
	if s.outbox {
		before = min(before, st.Shipped.File)
	}
	return s.journal.drop(before)
}

// replay brings what a crash left in the journal into logs.
func (s *Store) replay() error {
	r := replay{store: s, deleted: map[nimbus.LogKey]position{}, again: map[nimbus.LogKey]bool{}, seen: map[nimbus.LogKey]bool{}}
	for i, pass := range []func(int64, entry) error{r.look, r.take} {
		for _, p := range s.journal.list() {
			if p.number <= s.journal.current().Sealed {
				continue
			}
			end, err := s.journal.read(p.number, 0, math.MaxInt64, func(e entry) (bool, error) { return true, pass(p.number, e) })
			if err != nil {
				return fmt.Errorf("read file %d of the journal: %w", p.number, err)
			}
			if i == 0 && end < p.size && p.number != s.journal.number() { // of the last, a crash tears the end
				s.log.Error("a file of the journal ends early: lines that it had may be lost", "file", p.number, "sound", end, "size", p.size)
			}
			s.journal.measured(p.number, end)
		}
	}
	return nil
}

// replay is one start's.
type replay struct {
	store   *Store
	deleted map[nimbus.LogKey]position // the last time
	again   map[nimbus.LogKey]bool     // those that have lines since
	seen    map[nimbus.LogKey]bool
}

func (r *replay) look(number int64, e entry) error {
	if e.kind == kindDelete {
		r.deleted[e.key] = position{number, e.end}
		r.again[e.key] = false
	} else if _, ok := r.deleted[e.key]; ok {
		r.again[e.key] = true
	}
	return nil
}

func (r *replay) take(number int64, e entry) error {
	here := position{number, e.end}
	if deleted, ok := r.deleted[e.key]; ok && here.before(deleted) {
		return nil
	}
	a, err := r.store.acquire(e.key)
	if err != nil {
		return err
	}
	defer r.store.release(a)
	if e.kind == kindDelete {
		if r.again[e.key] {
			return nil // it was removed before the lines that follow came
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.empty()
		return r.store.removeFile(a)
	}
	lines, err := e.decode()
	if err != nil || len(lines) == 0 {
		return err
	}
	if !r.seen[e.key] {
		r.seen[e.key] = true
		if err := a.verify(lines[0].Seq); err != nil {
			return err
		}
	}
	last := a.end()
	if lines[0].Seq <= last {
		a.unsure(number)
	}
	for len(lines) > 0 && lines[0].Seq <= last {
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return nil
	}
	if lines[0].Seq != last+1 {
		r.store.log.Error("the journal lacks lines of a log: what follows them is not kept", "attempt", e.key.AttemptID, "have", last, "next", lines[0].Seq)
		return nil
	}
	r.store.add(a, lines, number)
	return nil
}
