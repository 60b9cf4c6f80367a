package registry

import (
	"context"
	"math"
	"slices"
	"sync"
)

// shares are how many there may be at once: of one mirror, of those of an org, in all.
// The last few of these, spared, are for orgs that have none.
type shares struct{ ofMirror, ofOrg, all, spared int }

// slots are what may come from upstreams at once, or what they may be asked. An org has a share of them, and
// the last ones are for orgs that have none: whatever one org's upstreams do, those
// of others are asked. Of those that wait, the org with the fewest is next.
type slots struct {
	most    shares
	mu      sync.Mutex
	all     int
	of      map[string]int    // by the org's id
	mirrors map[[2]string]int // by the org's id and the mirror's name: it may be made anew meanwhile
	waiting []*waitingForSlot // in the order in which they came
}

type waitingForSlot struct {
	orgID, mirror string
	got           chan struct{} // closed once it has one
}

// bound is why there is no slot.
type bound string

const (
	noBound  bound = ""
	ofMirror bound = "mirror"
	ofOrg    bound = "org"
	ofAll    bound = "all"
)

func newSlots(most shares) *slots {
	return &slots{most: most, of: map[string]int{}, mirrors: map[[2]string]int{}}
}

// full is what keeps one more from coming; s.mu is held.
func (s *slots) full(orgID, mirror string) bound {
	switch has := s.of[orgID]; {
	case s.mirrors[[2]string{orgID, mirror}] >= s.most.ofMirror:
		return ofMirror
	case has >= s.most.ofOrg:
		return ofOrg
	case s.all >= s.most.all, has > 0 && s.all >= s.most.all-s.most.spared:
		return ofAll
	}
	return noBound
}

// try takes a slot that is free, or tells what there are too many of.
func (s *slots) try(orgID, mirror string) bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tryHeld(orgID, mirror)
}

// tryHeld is try; s.mu is held.
func (s *slots) tryHeld(orgID, mirror string) bound {
	why := s.full(orgID, mirror)
	if why == noBound {
		s.take(orgID, mirror)
	}
	return why
}

// acquire waits for a slot until ctx ends, and tells then what there are too many
// of.
func (s *slots) acquire(ctx context.Context, orgID, mirror string) bound {
	return s.acquireUpTo(ctx, orgID, mirror, math.MaxInt)
}

// acquireUpTo is acquire that does not wait where so many do.
func (s *slots) acquireUpTo(ctx context.Context, orgID, mirror string, most int) bound {
	s.mu.Lock()
	if why := s.tryHeld(orgID, mirror); why == noBound || len(s.waiting) >= most {
		s.mu.Unlock()
		return why
	}
	w := &waitingForSlot{orgID, mirror, make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	select {
	case <-w.got:
		return noBound
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, w)
	if i < 0 { // it has got one meanwhile
		return noBound
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	if why := s.full(orgID, mirror); why != noBound {
		return why
	}
	return ofAll
}

// take takes a slot; s.mu is held.
func (s *slots) take(orgID, mirror string) {
	s.all++
	s.of[orgID]++
	s.mirrors[[2]string{orgID, mirror}]++
}

// release gives a slot back, and to the next one.
func (s *slots) release(orgID, mirror string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[orgID]--; s.of[orgID] == 0 {
		delete(s.of, orgID)
	}
	key := [2]string{orgID, mirror}
	if s.mirrors[key]--; s.mirrors[key] == 0 {
		delete(s.mirrors, key)
	}
	for next := s.next(); next >= 0; next = s.next() {
		w := s.waiting[next]
		s.waiting = slices.Delete(s.waiting, next, next+1)
		s.take(w.orgID, w.mirror)
		close(w.got)
	}
}

// next is who of those that wait is to have a slot, -1 for nobody; s.mu is held.
func (s *slots) next() int {
	next := -1
	for i, w := range s.waiting {
		if s.full(w.orgID, w.mirror) == noBound && (next < 0 || s.of[w.orgID] < s.of[s.waiting[next].orgID]) {
			next = i
		}
	}
	return next
}
