package server

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Times of knowing the other replicas.
const (
	attendEvery = 5 * time.Second
	// attendedFor is for how long what was heard counts. A replica that hears
	// nothing for longer makes no calls that the others don't expect of it.
	attendedFor = 20 * time.Second
	// attendGrace is how long a replica may have made calls after it was seen
	// last, and how long one that is new waits until all others know of it.
	attendGrace = attendedFor + attendEvery
	// attendWithin is the longest that a replica is remembered: as long as the
	// longest of GitHub's windows, and what it may have spent in it.
	attendWithin = time.Hour + 5*time.Minute + attendGrace
)

// attendance is where replicas hear of each other.
type attendance interface {
	Attend(ctx context.Context, id string, within time.Duration) (silent map[string]time.Duration, err error)
}

// roster knows how many replicas share what GitHub allows. It implements
// lifecycle.Service.
type roster struct {
	store attendance
	id    string
	now   func() time.Time // never goes back
	log   *slog.Logger

	mu     sync.Mutex
	since  time.Time // when it was heard of first; zero: never
	known  bool      // to all others that make calls
	at     time.Time // when it asked last
	silent map[string]time.Duration
}

// newRoster is that of a replica which is called the same when it is started
// again.
func newRoster(store attendance, id string, log *slog.Logger) *roster {
	return &roster{store: store, id: id, now: time.Now, log: log}
}

// Name implements lifecycle.Service.
func (r *roster) Name() string { return "replicas" }

// Run implements lifecycle.Service.
func (r *roster) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(attendEvery)
	defer tick.Stop()
	for {
		if err := r.attend(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "the other replicas are not known, it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (r *roster) attend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attendEvery)
	defer cancel()
	at := r.now() // before the answer: it may take its time
	silent, err := r.store.Attend(ctx, r.id, attendWithin)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.since.IsZero() || now.Sub(r.at) > attendedFor {
		// The others may have forgotten it, unless the process before was here just now.
		before, ok := silent[r.id]
		r.since, r.known = now, ok && before < attendedFor
	} else if !r.known { // not the first time: two that begin at once don't see each other then
		r.known = r.alone(silent) || now.Sub(r.since) >= attendGrace
	}
	r.at, r.silent = at, silent
	return nil
}

// alone tells whether no other one makes calls.
func (r *roster) alone(silent map[string]time.Duration) bool {
	for id, s := range silent {
		if id != r.id && s < attendGrace {
			return false
		}
	}
	return true
}

// count is how many replicas may have made calls within a time, this one
// included; 0 while this one may not, since the others don't expect it to.
func (r *roster) count(within time.Duration) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if !r.known || now.Sub(r.at) > attendedFor {
		return 0
	}
	n = 1
	for id, silent := range r.silent {
		if id != r.id && silent+now.Sub(r.at) < within+attendGrace {
			n++
		}
	}
	return n
}
