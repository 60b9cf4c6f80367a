package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// batchMost bounds how many operations share a transaction.
	batchMost = 64
	// batchesAtOnce is how many transactions are under way: while one waits for
	// its commit the next does its work.
	batchesAtOnce = 2
	// batchTimeout bounds one of them; callers have given up long before.
	batchTimeout = 30 * time.Second
)

// operation is one request's part of a transaction.
type operation struct {
	keys Keys // rows that it will ask for
	// do runs in the transaction, perhaps more than once. It has no effect but
	// through the unit, and changes nothing when it fails, as far as it can.
	do func(ctx context.Context, u *unit) error

	unit *unit // of the last run
	err  error
	done chan struct{}
}

// batch is what the operations of one transaction have in common.
type batch struct {
	Tx
	cfg     Config
	pacer   Pacer // nil: there is no budget
	fleet   *fleet
	now     time.Time
	promote map[string]nimbus.Class // windows to look after at the end, by class id
	// promoteFirst are windows to look after before these.
	promoteFirst []nimbus.Class
	corrects     map[Flow]*correction // of what flows were charged
	released     bool                 // a place of a limit is free again
	lookedUp     bool                 // the hosts were read anew
	messages     []message
	tally        Tally
}

// gatherer lets operations that arrive while a transaction is under way share
// the next one: the more there is to do, the less each of it costs. There is
// no timer; where nothing is under way, an operation runs at once.
type gatherer struct {
	run func(ctx context.Context, ops []*operation)

	mu      sync.Mutex
	waiting []*operation
	running int
}

// do runs an operation and returns its error. The operation is not undone when
// the caller goes away before.
func (g *gatherer) do(ctx context.Context, keys Keys, do func(context.Context, *unit) error) error {
	op := &operation{keys: keys, do: do, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, op)
	if g.running < batchesAtOnce {
		g.running++
		// Its own goroutine, since it also works for those who come later: with
		// nothing of the context of who came first, who may lead and do so in a
		// term that is over for him and not for them. It ends when nobody waits.
		go g.drain(context.Background())
	}
	g.mu.Unlock()
	select {
	case <-op.done:
		return op.err
	case <-ctx.Done():
		return fmt.Errorf("wait for a turn: %w", context.Cause(ctx))
	}
}

func (g *gatherer) drain(ctx context.Context) {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), batchMost)
		if n == 0 {
			g.running--
			g.mu.Unlock()
			return
		}
		ops := slices.Clone(g.waiting[:n])
		g.waiting = slices.Delete(g.waiting, 0, n)
		g.mu.Unlock()
		bounded, cancel := context.WithTimeout(ctx, batchTimeout)
		g.run(bounded, ops)
		cancel()
		for _, op := range ops {
			close(op.done)
		}
	}
}

// errSpoilt says that an operation failed after it had changed something: the
// others have to do without it.
var errSpoilt = errors.New("an operation failed halfway")

// share runs operations in one transaction, or each in its own where one of
// them stands in the way of the others.
func (s *Service) share(ctx context.Context, ops []*operation) {
	err := s.together(ctx, ops)
	switch code := nimbus.ErrorCode(err); {
	case err == nil:
	case len(ops) == 1, code == nimbus.CodeUnavailable, code == nimbus.CodeCancelled:
		for _, op := range ops {
			op.err = err
		}
	default:
		for _, op := range ops {
			s.share(ctx, []*operation{op})
		}
	}
}

// together runs operations in one transaction. An operation that fails without
// having changed anything fails alone, by its err.
func (s *Service) together(ctx context.Context, ops []*operation) error {
	var keys Keys
	for _, op := range ops {
		keys.add(op.keys)
	}
	var messages []message
	var tally *Tally
	err := s.store.Update(ctx, func(tx Tx) error {
		b := &batch{Tx: tx, cfg: s.cfg, pacer: s.pacer, fleet: s.fleet, now: tx.Now(), promote: map[string]nimbus.Class{}, corrects: map[Flow]*correction{}}
		if err := tx.Prefetch(ctx, keys); err != nil {
			return err
		}
		for _, op := range ops {
			before := tx.Changes()
			op.unit = &unit{batch: b}
			op.err = op.do(ctx, op.unit)
			switch {
			case op.err == nil:
				b.messages = append(b.messages, op.unit.messages...)
			case errors.Is(op.err, ErrRace), len(ops) == 1:
				return op.err
			case tx.Changes() != before:
				return errSpoilt
			}
		}
		end := &unit{batch: b}
		if err := end.settle(ctx); err != nil {
			return fmt.Errorf("fill the queue: %w", err)
		}
		for _, op := range ops {
			if op.err == nil && op.unit.atEnd != nil {
				if err := op.unit.atEnd(); err != nil {
					return err
				}
			}
		}
		messages, tally = slices.Concat(b.messages, end.messages), &b.tally
		return nil
	})
	if err != nil {
		if len(ops) == 1 { // what failed among others is tried again alone
			s.observeFenced(ops)
		}
		return err
	}
	s.observe(tally, ops)
	sent := map[message]bool{}
	for _, m := range messages {
		if !sent[m] {
			sent[m] = true
			s.bus.Publish(ctx, m.topic, []byte(m.payload))
		}
	}
	return nil
}

// settle does at the end of a transaction what its operations left to do for
// all of them together.
func (u *unit) settle(ctx context.Context) error {
	if u.released { // which may have been what jobs of any class waited for
		classes, err := u.WaitingClasses(ctx)
		if err != nil {
			return err
		}
		for _, c := range classes {
			u.promote[c.ID()] = c
		}
	}
	if err := u.PrefetchQueue(ctx, u.queueKeys()); err != nil {
		return err
	}
	if err := u.correctAll(ctx); err != nil {
		return err
	}
	for _, class := range u.promoteFirst {
		if err := u.fill(ctx, class); err != nil {
			return err
		}
	}
	for _, id := range turns(slices.Sorted(maps.Keys(u.promote)), u.now) {
		if err := u.fill(ctx, u.promote[id]); err != nil {
			return err
		}
	}
	return nil
}

// queueKeys are what there is to be settled.
func (u *unit) queueKeys() (k QueueKeys) {
	var flows []Waiting
	for f := range u.corrects {
		flows = append(flows, Waiting{Flow: f})
	}
	k.Classes = slices.Sorted(maps.Keys(u.promote))
	for _, id := range k.Classes {
		for _, j := range u.Newcomers(id) {
			flows = append(flows, Waiting{Flow: Flow{j.OrgID, j.RepoID}})
			k.Orgs = append(k.Orgs, j.OrgID)
		}
	}
	k.Flows = flowIDs(flows)
	slices.Sort(k.Orgs)
	k.Orgs = slices.Compact(k.Orgs)
	return k
}

// turns is in which order classes get what is free of limits: another one comes
// first each second, since the first may leave nothing. All transactions of one
// second have the same order, so that they seldom wait for each other in a ring.
func turns(ids []string, now time.Time) []string {
	if len(ids) < 2 {
		return ids
	}
	first := int(now.Unix() % int64(len(ids)))
	return append(slices.Clone(ids[first:]), ids[:first]...)
}

func (k *Keys) add(more Keys) {
	k.Attempts = append(k.Attempts, more.Attempts...)
	k.Jobs = append(k.Jobs, more.Jobs...)
	k.Deliveries = append(k.Deliveries, more.Deliveries...)
	k.GitHubJobs = append(k.GitHubJobs, more.GitHubJobs...)
	k.Repos = append(k.Repos, more.Repos...)
}
