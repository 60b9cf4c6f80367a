package near

import (
	"context"
	"crypto/sha256"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// sharePart is what of the room that is left one caller may have: eight times what it
	// has must still be free. So a caller alone gets 57 of 512, and however many take
	// all that they can there is room for one who comes anew.
	sharePart = 8
	// patience is how long a request waits for room, maxWaiting how many of one
	// caller do, and maxQueue how many of all.
	patience   = 10 * time.Second
	maxWaiting = 128
	maxQueue   = 1024
)

// shares divides what the door does at once among those who call: who reads or
// sends slowly, by as many requests as it can, holds up nobody but itself.
type shares struct {
	patience time.Duration

	mu    sync.Mutex
	busy  int
	of    map[string]*share // of who has, or waits for, a request
	queue []*waiter         // as they came
}

type share struct{ busy, waiting int }

type waiter struct {
	share *share
	in    chan struct{} // closed once it may go on
}

func newShares() *shares { return &shares{patience: patience, of: map[string]*share{}} }

// enter lets a request in, after a while if need be. false: there is no room, or
// nobody waits for it any more.
func (s *shares) enter(ctx context.Context, who string) (leave func(), ok bool) {
	w, ok := s.line(who)
	if !ok {
		return nil, false
	}
	timer := time.NewTimer(s.patience)
	defer timer.Stop()
	select {
	case <-w.in:
		return func() { s.leave(who) }, true
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.queue, w); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
		w.share.waiting--
		s.forget(who)
		return nil, false
	}
	return func() { s.leave(who) }, true // just now
}

// line puts a request behind the others of its caller, and lets it in if it can.
func (s *shares) line(who string) (*waiter, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.of[who]
	if !ok {
		c = &share{}
		s.of[who] = c
	}
	w := &waiter{c, make(chan struct{})}
	switch {
	case c.waiting == 0 && s.fits(c):
		s.letIn(w)
		return w, true
	case c.waiting >= maxWaiting || len(s.queue) >= maxQueue:
		s.forget(who)
		return nil, false
	}
	c.waiting++
	s.queue = append(s.queue, w)
	return w, true
}

// fits tells whether a caller may have one more. The caller holds the lock.
func (s *shares) fits(c *share) bool { return c.busy*sharePart < maxRequests-s.busy }

// letIn lets a request go on. The caller holds the lock.
func (s *shares) letIn(w *waiter) {
	s.busy++
	w.share.busy++
	close(w.in)
}

// leave gives room back to those who wait.
func (s *shares) leave(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.of[who].busy--
	s.forget(who)
	s.queue = slices.DeleteFunc(s.queue, func(w *waiter) bool {
		if !s.fits(w.share) {
			return false
		}
		w.share.waiting--
		s.letIn(w)
		return true
	})
}

// forget forgets a caller that has nothing. The caller holds the lock.
func (s *shares) forget(who string) {
	if c := s.of[who]; c.busy == 0 && c.waiting == 0 {
		delete(s.of, who)
	}
}

// caller is who a request is of. A sandbox is known by the relay that it came in
// by, whatever it says; on the host itself, where jobs are not apart, it is who the
// token or the URL is of.
func caller(r *http.Request) string {
	if sandbox, ok := r.Context().Value(sandboxKey{}).(string); ok {
		return "sandbox " + sandbox
	}
	said := r.Header.Get("Authorization")
	if said == "" {
		said = r.URL.Query().Get("org")
	}
	sum := sha256.Sum256([]byte(said)) // which is short, and no secret
	return "token " + string(sum[:])
}

// fairly gives each caller its share of a handler.
func (d *Door) fairly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leave, ok := d.shares.enter(r.Context(), caller(r))
		if !ok {
			d.cfg.Log.DebugContext(r.Context(), "a job has more requests of the cache than its share", "path", r.URL.Path)
			tooMany(w, r)
			return
		}
		defer leave()
		next.ServeHTTP(w, r)
	})
}

// tooMany has a client come again later, in the words of Azure's blob storage
// where it speaks to that.
func tooMany(w http.ResponseWriter, r *http.Request) {
	status, code := http.StatusTooManyRequests, "resource_exhausted"
	if strings.HasPrefix(r.URL.Path, "/_cache/") {
		status, code = http.StatusServiceUnavailable, "unavailable"
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(patience/time.Second)))
	refuse(w, r, status, code, "this job has more requests of the cache at once than its share")
}
