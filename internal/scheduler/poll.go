package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

const (
	// maxOffers bounds the answer to one poll; the next poll gets more.
	maxOffers = 16
	// claimMost bounds how many jobs of a class one claim looks at.
	claimMost = 64
	// lookInterval is how often the books are looked into although nothing
	// woke the polls that wait, since the bus may lose a message. Jittered by
	// half.
	lookInterval = 2 * time.Second
	// shellsInterval is how often it is looked for shells although nothing woke
	// the hosts' polls; maxShellCalls bounds how many are told of at once.
	shellsInterval = time.Second
	maxShellCalls  = 256
	// coolDown keeps a host that let an offer lapse from being offered the
	// next one at once: it may be ill, and another one well.
	coolDown = 10 * time.Second
)

// Poll waits up to wait for work, or for something to cancel. Offers that the
// host was made and has neither accepted nor let lapse are made again: the
// answer may have been lost. Codes: not_found for a host that isn't known,
// invalid, too_large.
func (s *Service) Poll(ctx context.Context, hostID string, free nimbus.Capacity, wait time.Duration) (PollResult, error) {
	if err := free.Check(); err != nil {
		return PollResult{}, err
	}
	own := s.bus.Subscribe(bus.HostTopic(hostID))
	defer own.Close()
	deadline := time.NewTimer(min(max(wait, 0), MaxPollWait))
	defer deadline.Stop()
	p := s.claims.enter(ctx, hostID, free)
	defer s.claims.leave(p)
	for {
		select {
		case <-p.done:
			return p.result, p.err
		case <-own.C:
			s.claims.lookAgain(p)
			continue
		case <-ctx.Done():
			return PollResult{}, ctx.Err()
		case <-deadline.C:
		}
		// Never before the books were looked into once.
		select {
		case <-p.done:
			return p.result, p.err
		case <-p.looked:
			return s.claims.giveUp(p)
		case <-ctx.Done():
			return PollResult{}, ctx.Err()
		}
	}
}

// poll is a host that waits for work.
type poll struct {
	hostID string
	free   nimbus.Capacity

	asked  bool          // whether it was looked for what the host was told before
	looked chan struct{} // closed once the books were looked into for it
	done   chan struct{} // closed once it is answered
	result PollResult
	err    error
}

// claims answers the polls of a replica. One look into the books, and one claim
// if there is something, is for all hosts that wait by then; what comes while
// it is under way is for the next. So the cost of a job that arrives does not
// grow with the hosts that wait for one.
type claims struct {
	service *Service

	shellsAt time.Time // when it was looked for shells last; the loop's own

	mu      sync.Mutex
	waiting []*poll // in the order in which they came
	running bool
	kick    chan struct{}
}

func newClaims(s *Service) *claims { return &claims{service: s, kick: make(chan struct{}, 1)} }

// enter lets a poll wait. The loop that answers it runs while anybody waits.
func (c *claims) enter(ctx context.Context, hostID string, free nimbus.Capacity) *poll {
	p := &poll{hostID: hostID, free: free, looked: make(chan struct{}), done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, p)
	if !c.running {
		c.running = true
		go c.run(context.WithoutCancel(ctx))
	}
	c.wake()
	return p
}

// wake has the loop look into the books soon.
func (c *claims) wake() {
	select {
	case c.kick <- struct{}{}:
	default: // it is about to
	}
}

// lookAgain has it looked for what a poll's host should know.
func (c *claims) lookAgain(p *poll) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.asked = false
	c.wake()
}

// leave ends a poll, answered or not.
func (c *claims) leave(p *poll) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = slices.DeleteFunc(c.waiting, func(w *poll) bool { return w == p })
	if len(c.waiting) == 0 {
		c.wake() // the loop may end
	}
}

// giveUp ends a poll whose time is over, unless it is answered just now.
func (c *claims) giveUp(p *poll) (PollResult, error) {
	c.leave(p)
	select {
	case <-p.done:
		return p.result, p.err
	default:
		return PollResult{}, nil
	}
}

// answer ends a poll. The caller holds no lock.
func (c *claims) answer(p *poll, r PollResult, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiting, p)
	if i < 0 {
		return // gone meanwhile: what it was offered lapses
	}
	c.waiting = slices.Delete(c.waiting, i, i+1)
	p.result, p.err = r, err
	close(p.done)
}

func (c *claims) run(ctx context.Context) {
	queue := c.service.bus.Subscribe(bus.TopicQueue)
	defer queue.Close()
	var kept time.Duration
	for {
		wait := lookInterval/2 + rand.N(lookInterval)
		if kept > 0 {
			wait = min(wait, kept)
		}
		again := time.NewTimer(wait)
		select {
		case <-c.kick:
		case <-queue.C:
		case <-again.C:
		}
		again.Stop()
		for len(queue.C) > 0 { // all of them are for one look
			<-queue.C
		}
		c.mu.Lock()
		if len(c.waiting) == 0 {
			c.running = false
			c.mu.Unlock()
			return
		}
		polls := slices.Clone(c.waiting)
		c.mu.Unlock()
		bounded, cancel := context.WithTimeout(ctx, batchTimeout)
		kept = c.service.lookFor(bounded, polls)
		cancel()
	}
}

// lookFor answers those of the polls for which there is something in the books.
// A job that is kept for somebody else it tells by how long that is still so.
func (s *Service) lookFor(ctx context.Context, polls []*poll) (kept time.Duration) {
	var classes []nimbus.Class
	var touch []string
	var now time.Time
	err := s.store.View(ctx, func(r Reader) error {
		now = r.Now()
		if err := s.fleet.refresh(ctx, r, fleetFresh); err != nil {
			return err
		}
		var err error
		if touch, err = s.greet(ctx, r, polls); err != nil {
			return err
		}
		if now.Sub(s.claims.shellsAt) > shellsInterval {
			s.claims.shellsAt = now
			if err := s.callForShells(ctx, r, polls); err != nil {
				return err
			}
		}
		ids, err := r.QueuedClasses(ctx)
		if err != nil || len(ids) == 0 {
			return err
		}
		classes, err = s.fleet.classes(ctx, r, ids)
		return err
	})
	if err == nil {
		takers, ids := s.takers(polls, classes, now)
		kept, err = s.claimFor(ctx, takers, ids, touch)
	}
	if err != nil {
		s.log.WarnContext(ctx, "claiming failed, it is tried again", "error", err)
	}
	for _, p := range polls {
		if p.answered() {
			continue
		}
		if err != nil {
			s.claims.answer(p, PollResult{}, err)
			continue
		}
		p.see()
	}
	return kept
}

// answered tells whether a poll needs nothing any more.
func (p *poll) answered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// see marks that the books hold nothing for a poll now.
func (p *poll) see() {
	select {
	case <-p.looked:
	default:
		close(p.looked)
	}
}

// greet answers polls of hosts that were told something before which they may
// not have heard, and returns the hosts whose being here has to be written.
func (s *Service) greet(ctx context.Context, r Reader, polls []*poll) (touch []string, err error) {
	var asking []*poll
	var hosts []string
	for _, p := range s.claims.ask(polls) {
		known, stale := s.fleet.touch(p.hostID, r.Now())
		if !known {
			h, err := r.Host(ctx, p.hostID)
			if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
				s.claims.answer(p, PollResult{}, err)
				continue
			}
			if err != nil {
				return nil, err
			}
			s.fleet.add(h)
			_, stale = s.fleet.touch(p.hostID, r.Now())
		}
		s.fleet.tell(p.hostID, p.free)
		if stale {
			touch = append(touch, p.hostID)
		}
		asking = append(asking, p)
		hosts = append(hosts, p.hostID)
	}
	if len(asking) == 0 {
		return touch, nil
	}
	told, err := r.Told(ctx, hosts)
	if err != nil || len(told) == 0 {
		return touch, err
	}
	byHost := map[string]PollResult{}
	for _, t := range told {
		result := byHost[t.HostID]
		switch {
		case t.Shell != "":
			result.Shells = append(result.Shells, ShellCall{ShellID: t.Shell, AttemptID: t.Offer.AttemptID})
		case t.Cancel:
			result.Cancel = append(result.Cancel, t.Offer.AttemptID)
		default:
			result.Offers = append(result.Offers, t.Offer)
		}
		byHost[t.HostID] = result
	}
	for _, p := range asking {
		if result, ok := byHost[p.hostID]; ok {
			s.claims.answer(p, result, nil)
		}
	}
	return touch, nil
}

// callForShells answers polls of hosts that are to come for shells, and that
// nothing woke. A host may be told again before it has come.
func (s *Service) callForShells(ctx context.Context, r Reader, polls []*poll) error {
	waiting, err := r.WaitingShells(ctx, maxShellCalls)
	if err != nil || len(waiting) == 0 {
		return err
	}
	for _, p := range polls {
		if calls := waiting[p.hostID]; len(calls) > 0 {
			s.claims.answer(p, PollResult{Shells: calls}, nil)
		}
	}
	return nil
}

// ask are the polls for which it is still to be looked for what their hosts were
// told.
func (c *claims) ask(polls []*poll) (still []*poll) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range polls {
		if !p.asked {
			p.asked = true
			still = append(still, p)
		}
	}
	return still
}

// taker is a poll that can be given jobs.
type taker struct {
	*poll
	host   *HostRecord
	offers []nimbus.Offer
}

// claimFor claims queued jobs for all polls that can take one, and answers them.
func (s *Service) claimFor(ctx context.Context, takers []*taker, ids, touch []string) (kept time.Duration, err error) {
	if len(ids) == 0 && len(touch) == 0 {
		return 0, nil
	}
	err = s.update(ctx, func(u *unit) (err error) {
		for _, t := range takers {
			t.offers = nil
		}
		if err := u.TouchHosts(ctx, u.fleet.free(touch)); err != nil || len(ids) == 0 {
			return err
		}
		kept, err = u.claim(ctx, takers, ids)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, t := range takers {
		if len(t.offers) > 0 {
			s.fleet.tell(t.hostID, remaining(t.free, t.offers))
			s.claims.answer(t.poll, PollResult{Offers: t.offers}, nil)
		}
	}
	return kept, nil
}

// takers are the polls that wait still and could take a job of the classes, and
// the ids of those classes.
func (s *Service) takers(polls []*poll, classes []nimbus.Class, now time.Time) (takers []*taker, ids []string) {
	if len(classes) == 0 {
		return nil, nil // the usual case of a large fleet: a look for each poll that comes must not cost what all do
	}
	return s.fleet.takers(polls, classes, now)
}

// claim makes offers to takers of the queued jobs that fit, in the order of
// their rank. A job that fits nobody is passed over, and so is one that is kept
// for a host that has a sandbox of its class ready: kept is when the first of
// these is anybody's.
func (u *unit) claim(ctx context.Context, takers []*taker, classIDs []string) (kept time.Duration, err error) {
	jobs, err := u.Claim(ctx, classIDs, min(claimMost, maxOffers*len(takers)))
	if err != nil || len(jobs) == 0 {
		return 0, err
	}
	slices.SortFunc(jobs, func(a, b *JobRecord) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), strings.Compare(a.ID, b.ID))
	})
	given := map[*JobRecord]*taker{}
	var ordered []*JobRecord
	rank := int64(0)
	for _, j := range jobs {
		t, wait := u.choose(takers, j)
		if wait > 0 && (kept == 0 || wait < kept) {
			kept = wait
		}
		if t != nil {
			t.offers = append(t.offers, nimbus.Offer{JobID: j.ID, Class: j.Class})
			given[j] = t
			ordered = append(ordered, j)
			rank = j.Rank
		}
	}
	if len(ordered) == 0 {
		return kept, nil
	}
	last, err := u.MintFences(ctx, len(ordered), rank)
	if err != nil {
		return 0, fmt.Errorf("mint fencing tokens: %w", err)
	}
	for i, j := range ordered {
		if err := u.offer(ctx, j, given[j], last-int64(len(ordered)-1-i)); err != nil {
			return 0, err
		}
		u.promoteLater(j.Class)
	}
	return kept, nil
}

// choose is who gets a job: nobody while there is no budget for it, then a host
// that has a sandbox of its class ready before others. For one that has but isn't asking just now the job is kept, wait
// longer at most, which then nobody gets.
func (u *unit) choose(takers []*taker, j *JobRecord) (t *taker, wait time.Duration) {
	if wait := u.budgetWait(j); wait > 0 {
		return nil, wait
	}
	id := j.Class.ID()
	holders := u.fleet.holders(id, u.now)
	if len(holders) == 0 {
		return best(takers, j.Class, nil), 0
	}
	if t := best(takers, j.Class, func(free nimbus.Capacity) bool { return free.IsWarm(id) }); t != nil {
		return t, 0
	}
	away := slices.ContainsFunc(holders, func(id string) bool {
		return !slices.ContainsFunc(takers, func(t *taker) bool { return t.hostID == id })
	})
	if wait = u.cfg.AffinityWait - u.now.Sub(j.Timeline.QueuedAt); away && wait > 0 {
		return nil, wait
	}
	return best(takers, j.Class, nil), 0
}

// best is the one that fits and has the least already, and of these who waits
// longest; of those alone for which suits holds, unless that is nil.
func best(takers []*taker, c nimbus.Class, suits func(nimbus.Capacity) bool) *taker {
	var best *taker
	for _, t := range takers {
		if len(t.offers) >= maxOffers {
			continue
		}
		free := remaining(t.free, t.offers)
		if !fits(c, free) || suits != nil && !suits(free) || !t.host.Inventory.Serves(c) {
			continue
		}
		if best == nil || len(t.offers) < len(best.offers) {
			best = t
		}
		if len(best.offers) == 0 {
			break
		}
	}
	return best
}

// offer gives a queued job to a host to accept. The fencing token is minted
// under the lock of the job, so that a later offer always has a higher one.
func (u *unit) offer(ctx context.Context, j *JobRecord, t *taker, fence int64) error {
	if j.AttemptID != "" { // a lapsed offer leaves nothing behind
		if err := u.DeleteLapsed(ctx, j.AttemptID); err != nil {
			return err
		}
	}
	a := &Attempt{
		Lease: nimbus.Lease{AttemptID: nimbus.NewID(nimbus.PrefixAttempt, u.now), Fence: fence},
		JobID: j.ID, OrgID: j.OrgID, HostID: t.hostID, State: AttemptOffered,
		OfferedAt: u.now, ExpiresAt: u.now.Add(nimbus.OfferTimeout),
	}
	if err := u.InsertAttempt(ctx, a); err != nil {
		return fmt.Errorf("write the offer: %w", err)
	}
	for i := range t.offers {
		if t.offers[i].JobID == j.ID {
			t.offers[i].Lease = a.Lease
		}
	}
	j.AttemptID = a.AttemptID
	return u.move(ctx, j, Move{To: nimbus.StateOffered, Actor: actorSystem, Detail: "to " + t.hostID})
}

func fits(c nimbus.Class, free nimbus.Capacity) bool {
	_, _, ok := free.Reserve(c)
	return ok
}

// remaining is what is free once the offers are accepted.
func remaining(free nimbus.Capacity, offers []nimbus.Offer) nimbus.Capacity {
	for _, o := range offers {
		_, free, _ = free.Reserve(o.Class)
	}
	return free
}
