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
	crowded *crowded
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
		b := &batch{Tx: tx, cfg: s.cfg, pacer: s.pacer, fleet: s.fleet, crowded: s.crowded, now: tx.Now(), promote: map[string]nimbus.Class{}, corrects: map[Flow]*correction{}}
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
	classes, err := u.toFill(ctx)
	if err != nil {
		return err
	}
	windows, err := u.lockWindows(ctx, classes)
	if err != nil {
		return err
	}
	if err := u.correctAll(ctx); err != nil {
		return err
	}
	for _, w := range windows {
		if err := u.fill(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// toFill are the classes whose windows are to be looked after, in that order.
func (u *unit) toFill(ctx context.Context) ([]nimbus.Class, error) {
	if u.released { // which may have been what jobs of any class waited for
		classes, err := u.WaitingClasses(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range classes {
			u.promote[c.ID()] = c
		}
	}
	order := slices.Clone(u.promoteFirst)
	for _, c := range order {
		delete(u.promote, c.ID())
	}
	for _, id := range turns(slices.Sorted(maps.Keys(u.promote)), u.now) {
		order = append(order, u.promote[id])
	}
	return order, nil
}

// lockWindows returns the windows of classes that may be filled, and locks the
// tags of all flows that this may charge at once: one window's after another's
// would have transactions wait for each other in a ring, which the database
// finds out after a second.
//
// Most times no backlog has anything, and one round trip is enough. What was
// seen of the classes last tells whether that is likely. When it was not so, and
// tags are locked already, the transaction begins again and knows better.
func (u *unit) lockWindows(ctx context.Context, classes []nimbus.Class) (windows []*window, err error) {
	keys := QueueKeys{}
	for _, c := range classes {
		keys.Classes = append(keys.Classes, c.ID())
	}
	if !u.crowded.any(keys.Classes) {
		var flows []Waiting
		for _, id := range keys.Classes {
			flows = append(flows, u.promotable(id, u.Newcomers(id)).waiting()...)
		}
		keys.Flows, keys.Orgs = u.flowKeys(flows)
	}
	if err := u.PrefetchQueue(ctx, keys); err != nil {
		return nil, err
	}
	var flows []Waiting
	for _, c := range classes {
		w, err := u.window(ctx, c)
		if err != nil {
			return nil, err
		}
		if w != nil {
			windows = append(windows, w)
			flows = append(flows, w.from.waiting()...)
		}
	}
	locked := keys.Flows
	keys = QueueKeys{}
	keys.Flows, keys.Orgs = u.flowKeys(flows)
	if len(locked) > 0 && slices.ContainsFunc(keys.Flows, func(id string) bool { return !slices.Contains(locked, id) }) {
		return nil, fmt.Errorf("a class has a backlog by now: %w", ErrRace)
	}
	return windows, u.PrefetchQueue(ctx, keys)
}

// flowKeys are flows of which jobs may be queued, and those that get back what
// they were charged; and the orgs of the first.
func (u *unit) flowKeys(flows []Waiting) (ids, orgs []string) {
	for _, w := range flows {
		orgs = append(orgs, w.OrgID)
	}
	slices.Sort(orgs)
	for f := range u.corrects {
		flows = append(flows, Waiting{Flow: f})
	}
	return flowIDs(flows), slices.Compact(orgs)
}

// turns is in which order classes get what is free of limits: another one comes
// first each second, since the first may leave nothing.
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
