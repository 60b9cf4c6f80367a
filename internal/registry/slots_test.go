package registry

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlotsOfOrgs: one org, and three, can't take what others need.
func TestSlotsOfOrgs(t *testing.T) {
	t.Parallel()
	s := newSlots(fillShares)
	gone, cancel := context.WithCancel(t.Context())
	cancel() // who can't have one at once has none
	fill := func(org string) (n int, why bound) {
		for i := 0; ; i++ {
			if why := s.acquire(gone, org, fmt.Sprint("mirror-", i%4)); why != noBound {
				return n, why
			}
			n++
		}
	}
	if n, why := fill("one"); n != fillShares.ofOrg || why != ofOrg {
		t.Errorf("an org has %d slots, until there are too many of %q", n, why)
	}
	for i := range 2 {
		fill(fmt.Sprint("more-", i))
	}
	if n, why := fill("greedy"); n != 1 || why != ofAll {
		t.Errorf("an org has %d of the last slots, until there are too many of %q", n, why)
	}
	for i := range fillShares.spared - 1 {
		if why := s.acquire(gone, fmt.Sprint("poor-", i), "x"); why != noBound {
			t.Errorf("an org that has none gets none: %q", why)
		}
	}
	if why := s.acquire(gone, "late", "x"); why != ofAll || s.all != fillShares.all {
		t.Errorf("%d have slots, and another one %q", s.all, why)
	}
	for i := range fillShares.ofOrg {
		s.release("one", fmt.Sprint("mirror-", i%4))
	}
	if why := s.acquire(gone, "late", "x"); why != noBound {
		t.Errorf("what was given back can't be had: %q", why)
	}
}

// TestSlotsOfMirror: one slow mirror leaves some to the others of its org.
func TestSlotsOfMirror(t *testing.T) {
	t.Parallel()
	s := newSlots(fillShares)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range fillShares.ofMirror {
		if why := s.acquire(gone, "org", "slow"); why != noBound {
			t.Fatal(why)
		}
	}
	if why := s.acquire(gone, "org", "slow"); why != ofMirror {
		t.Errorf("a mirror has too many, and it is said of %q", why)
	}
	if why := s.acquire(gone, "org", "quick"); why != noBound {
		t.Errorf("another mirror of the org gets none: %q", why)
	}
}

// TestFillsThatWait: who has most of them waiting keeps no other org from its first.
func TestFillsThatWait(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		has, all int
		want     bound
	}{
		{fillsWaitingOfOrg - 1, fillsWaitingOfOrg - 1, noBound}, {fillsWaitingOfOrg, fillsWaitingOfOrg, ofOrg}, {1, fillsWaiting, ofAll}, {0, fillsWaiting, noBound},
		{0, fillsWaiting + fillsWaitingSpared, ofAll},
	} {
		f := fills{count: c.all, of: map[string]int{"org": c.has}}
		if got := f.full("org"); got != c.want {
			t.Errorf("%d of an org of %d: too many of %q, not of %q", c.has, c.all, got, c.want)
		}
	}
}

// TestSlotsInTurn: of those that wait the org with the fewest is next, and who has
// gone gets none.
func TestSlotsInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(fillShares)
		for i := range fillShares.all {
			s.acquire(t.Context(), fmt.Sprint("full-", i), "x")
		}
		var got []string
		wait := func(org string, most time.Duration) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), most)
				defer cancel()
				if s.acquire(ctx, org, "x") == noBound {
					got = append(got, org)
				}
			}()
			synctest.Wait()
		}
		wait("gone", time.Second)
		wait("full-0", time.Hour)
		wait("none", time.Hour)
		time.Sleep(2 * time.Second)
		s.release("full-1", "x")
		synctest.Wait()
		if fmt.Sprint(got) != "[none]" {
			t.Errorf("%v have slots", got)
		}
		for i := range fillShares.spared + 1 {
			s.release(fmt.Sprint("full-", i+2), "x")
		}
		synctest.Wait()
		if fmt.Sprint(got) != "[none full-0]" || len(s.waiting) != 0 {
			t.Errorf("%v have slots, %d wait", got, len(s.waiting))
		}
	})
}
