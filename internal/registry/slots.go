package registry

import (
	"context"
	"slices"
	"sync"
)

// slots are what may come from upstreams at once. An org has a share of them, and
// the last ones are for orgs that have none: whatever one org's upstreams do, those
// of others are asked. Of those that wait, the org with the fewest is next.
type slots struct {
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

func newSlots() *slots {
	return &slots{of: map[string]int{}, mirrors: map[[2]string]int{}}
}

// full is what keeps one more from coming; s.mu is held.
func (s *slots) full(orgID, mirror string) bound {
	switch has := s.of[orgID]; {
	case s.mirrors[[2]string{orgID, mirror}] >= fillsOfMirror:
		return ofMirror
	case has >= fillsOfOrg:
		return ofOrg
	case s.all >= fillsAtOnce, has > 0 && s.all >= fillsAtOnce-fillsSpared:
		return ofAll
	}
	return noBound
}

// acquire waits for a slot until ctx ends, and tells then what there are too many
// of.
func (s *slots) acquire(ctx context.Context, orgID, mirror string) bound {
	s.mu.Lock()
	if s.full(orgID, mirror) == noBound {
		s.take(orgID, mirror)
		s.mu.Unlock()
		return noBound
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
