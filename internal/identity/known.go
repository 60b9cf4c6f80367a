package identity

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of what is remembered.
const (
	maxKnown = 50_000
	maxUsed  = 1_000
	// joinWithin is how young a question to the store must be for another
	// caller to share its answer.
	joinWithin = time.Second
)

// known is what this replica knows of tokens, by their hashes, so that a
// heartbeat costs no query. Only tokens that work are remembered. What is
// revoked is forgotten when the store's revocations are read; when they could
// not be read for a while, nothing that is remembered counts.
type known struct {
	mu      sync.Mutex
	entries map[string]entry
	asking  map[string]*question

	started bool
	seq     int64     // of the last revocation that was heeded
	readAt  time.Time // when the reading began that found no later one

	use       map[string]struct{} // ids of tokens that were used
	flushedAt time.Time
}

// entry is a token that works.
type entry struct {
	principal nimbus.Principal
	parent    string
	until     time.Time
	usedAt    time.Time
}

// among tells whether a revocation of any of the subjects is about the entry.
func (e entry) among(subjects map[string]bool) bool {
	return subjects[""] || subjects[e.principal.TokenID] || subjects[e.principal.Subject] || e.parent != "" && subjects[e.parent]
}

func newKnown() *known {
	return &known{entries: map[string]entry{}, asking: map[string]*question{}, use: map[string]struct{}{}}
}

// fresh tells whether what is remembered may be believed.
func (k *known) fresh(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.isFresh(now)
}

func (k *known) isFresh(now time.Time) bool { return k.started && now.Sub(k.readAt) < staleAfter }

// find returns a token that is remembered, and may be.
func (k *known) find(sum string, now time.Time) (entry, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.entries[sum]
	if !ok || !k.isFresh(now) {
		return entry{}, false
	}
	if !now.Before(e.until) {
		delete(k.entries, sum)
		return entry{}, false
	}
	if e.principal.Person() && now.Sub(e.usedAt) >= touchInterval {
		e.usedAt = now
		k.entries[sum] = e
		k.note(e.principal.TokenID)
	}
	return e, true
}

// question is one that the store is being asked.
type question struct {
	began time.Time
	done  chan struct{}
	entry entry
	err   error
}

// once asks about a token, or waits for the answer of who asked just before.
// What is answered is remembered, unless something was revoked meanwhile.
func (k *known) once(ctx context.Context, sum string, now time.Time, ask func(context.Context) (entry, error)) (nimbus.Principal, error) {
	k.mu.Lock()
	if q := k.asking[sum]; q != nil && now.Sub(q.began) < joinWithin {
		k.mu.Unlock()
		select {
		case <-q.done:
		case <-ctx.Done():
			return nimbus.Principal{}, ctx.Err()
		}
		if !gaveUp(q.err) {
			return q.entry.principal, q.err
		}
		e, err := ask(ctx)
		return e.principal, err
	}
	q, seq := &question{began: now, done: make(chan struct{})}, k.seq
	k.asking[sum] = q
	k.mu.Unlock()
	q.err = nimbus.Errorf(nimbus.CodeCancelled, "who asked is gone") // unless ask returns
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.asking[sum] == q {
			delete(k.asking, sum)
		}
		if q.err == nil && k.seq == seq {
			k.keep(sum, q.entry)
		}
		close(q.done)
	}()
	q.entry, q.err = ask(ctx)
	q.entry.usedAt = now
	return q.entry.principal, q.err
}

// gaveUp tells whether a question ended because its caller went away.
func gaveUp(err error) bool {
	return nimbus.ErrorCode(err) == nimbus.CodeCancelled || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// keep remembers a token; when there are too many, any other goes.
func (k *known) keep(sum string, e entry) {
	for other := range k.entries {
		if len(k.entries) < maxKnown {
			break
		}
		delete(k.entries, other)
	}
	k.entries[sum] = e
}

// position is the last revocation that was heeded, if any reading was made.
func (k *known) position() (seq int64, started bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seq, k.started
}

// heed forgets what was revoked. began is when the reading began; zero when
// there is more to read.
func (k *known) heed(began time.Time, seq int64, revoked []Revocation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	subjects := map[string]bool{}
	for _, r := range revoked {
		seq, subjects[r.Subject] = max(seq, r.Seq), true
	}
	if len(subjects) > 0 {
		maps.DeleteFunc(k.entries, func(_ string, e entry) bool { return e.among(subjects) })
	}
	k.started, k.seq = true, max(k.seq, seq)
	if !began.IsZero() {
		k.readAt = began
	}
}

// touch notes that a token was used.
func (k *known) touch(tokenID string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note(tokenID)
}

func (k *known) note(tokenID string) {
	if len(k.use) < maxUsed {
		k.use[tokenID] = struct{}{}
	}
}

// used takes what was noted, once a minute.
func (k *known) used(now time.Time) (ids []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.use) == 0 || now.Sub(k.flushedAt) < touchInterval {
		return nil
	}
	k.flushedAt = now
	for id := range k.use {
		ids = append(ids, id)
	}
	clear(k.use)
	slices.Sort(ids) // replicas take the rows in one order
	return ids
}
