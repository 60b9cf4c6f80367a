package cache

import (
	"sync"
	"time"
)

// mostCredits is of how many uploads credit is remembered. Those beyond it claim
// for each block.
const mostCredits = 10_000

// credits are bytes that this replica has claimed for uploads ahead of the blocks
// that they are for, so that an upload of many small ones does not ask the database
// for each. What of it is left counts for the upload until that ends, as all does
// that is claimed.
type credits struct {
	mu sync.Mutex
	of map[int64]*credit
}

type credit struct {
	place Place
	left  int64
	came  int64 // bytes of blocks, which say how many more may come
	used  time.Time
}

// draw takes bytes that are claimed already. ok is false where there are not as
// many; then ahead is how many to claim beside them: as many as came so far.
func (c *credits) draw(id, bytes int64) (p Place, ahead int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.of[id]
	switch {
	case of == nil:
		return Place{}, 0, false
	case of.left < bytes:
		return Place{}, max(min(of.came, claimStep)-bytes, 0), false
	}
	of.left -= bytes
	return of.place, 0, true
}

// came notes that a block of an upload is stored.
func (c *credits) came(id, bytes int64, p Place, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.of[id]
	if of == nil {
		if len(c.of) >= mostCredits {
			return
		}
		of = &credit{place: p}
		c.of[id] = of
	}
	of.came, of.used = of.came+bytes, now
}

// add notes what was claimed ahead.
func (c *credits) add(id, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of := c.of[id]; of != nil {
		of.left += bytes
	}
}

// end forgets that of an upload that is over.
func (c *credits) end(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.of, id)
}

// forget drops those that were not used for long: such an upload is given up.
func (c *credits) forget(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, of := range c.of {
		if of.used.Before(since) {
			delete(c.of, id)
		}
	}
}
