package audit

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// What is recorded by number: one entry a kind and window. The first window of
// a kind is a tally's interval, so that an auditor hears of it at once; as long
// as the kind goes on, each is twice as long as the one before.
const (
	tallyInterval = 10 * time.Second
	// deniedWithin and readWithin are the longest windows. Who polls writes some
	// entries a day; a process that is killed loses the numbers since the last.
	deniedWithin = 10 * time.Minute
	readWithin   = time.Hour
	// maxKinds bounds what is told apart in memory, whoever pays for it.
	maxKinds = 20_000
	// tallyBatch is how many entries are written in one transaction.
	tallyBatch = 500
	// flushTimeout bounds the last flush, when the process ends.
	flushTimeout = 3 * time.Second
)

// allowance bounds the rows that one account leaves in one chain: so many, and
// one more each time. No more kinds than that are told apart of it at a time.
// What is beyond is counted as Other.
type allowance struct {
	rows  int64
	every time.Duration
}

// class is a sort of account.
type class int

const (
	strangers class = iota // all of them
	actors                 // one known caller, in its own org's chain or the platform's
	callers                // an org's callers there, once maxActors have accounts
	others                 // an org's callers, in another org's chain
	readers                // an administrator who reads, in each org
)

// allowances have the least for what callers do to an org that is not theirs:
// nobody fills a chain that others pay for. That each caller has its own keeps
// one from hiding another's refusals behind many of its own.
var allowances = map[class]allowance{
	strangers: {1000, time.Second},
	actors:    {100, 2 * time.Minute},
	callers:   {200, 10 * time.Second},
	others:    {30, time.Minute},
	readers:   {200, time.Minute},
}

// maxActors bounds the callers with accounts of their own, in each chain.
const maxActors = 100

// Anonymous is the actor of a call by nobody that is known, and Other stands
// for what is not told apart any more.
const (
	Anonymous = "anonymous"
	Other     = "other"
	several   = "several" // networks
)

// The actions of what is counted. The target is what was asked for: a procedure,
// or the pattern of a route.
const (
	ActionDenied = "access.deny" // a call that was refused
	ActionRead   = "admin.read"  // of an org, by an administrator of the platform who has no role there
)

// Tally counts what happens too often for an entry each: refusals, and what
// administrators of the platform read in orgs. A flood fills neither the memory
// nor a chain. It implements lifecycle.Service. The zero value is not ready.
type Tally struct {
	store interface {
		RecordAudit(ctx context.Context, events []nimbus.AuditEvent) error
	}
	log   *slog.Logger
	clock nimbus.Clock

	writing sync.Mutex // held from what is taken until it is written

	mu       sync.Mutex
	counts   map[kind]*count
	accounts map[account]*balance
	actors   map[string]int // accounts of that class, by chain
}

// kind is what is counted together.
type kind struct {
	account

	actor, target string
	network       string      // of a stranger: nothing else tells strangers apart
	code          nimbus.Code // of a refusal
}

// account is who pays for entries, and in which org's chain.
type account struct {
	class        class
	orgID, payer string
	action       string
}

// count is how often something of a kind happened since the last entry.
type count struct {
	n      int64
	since  time.Time // when the first of them did
	from   string    // the network, where it is none of the kind's
	window time.Duration
	due    time.Time // when the next entry is
}

// balance is what an account has left.
type balance struct {
	allowance

	left int64 // rows
	at   time.Time
	live int64 // kinds that are told apart
}

// NewTally returns one that is empty.
func NewTally(store Store, log *slog.Logger) *Tally {
	return &Tally{store: store, log: log, clock: nimbus.SystemClock{}, counts: map[kind]*count{}, accounts: map[account]*balance{}, actors: map[string]int{}}
}

// Denied counts a refusal, in an org's chain ("" for the platform's). actor is
// "" for a caller that nobody knows; home is the caller's own org, "" for none;
// from is its address, with or without a port. Another org does not hear from
// where somebody came.
func (t *Tally) Denied(orgID, home, actor, target string, code nimbus.Code, from string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := account{actors, orgID, actor, ActionDenied}
	switch {
	case actor == "":
		a.class = strangers
		t.add(kind{a, Anonymous, target, network(from), code}, "")
		return
	case orgID != "" && orgID != home:
		a.class, a.payer, from = others, cmp.Or(home, actor), ""
	case t.accounts[a] == nil && t.actors[orgID] >= maxActors:
		a.class, a.payer = callers, cmp.Or(home, actor)
	}
	if from != "" {
		from = network(from)
	}
	t.add(kind{a, actor, target, "", code}, from)
}

// Read counts that an administrator of the platform read something of an org.
func (t *Tally) Read(orgID, actor, target, from string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(kind{account{readers, orgID, actor, ActionRead}, actor, target, "", ""}, network(from))
}

// longest is the longest window of its kinds.
func (a account) longest() time.Duration {
	if a.action == ActionRead {
		return readWithin
	}
	return deniedWithin
}

// other is what stands for a kind that is not told apart any more. Who has
// an account is named all the same.
func (k kind) other() kind {
	k.target, k.network = Other, ""
	if k.class == callers || k.class == others {
		k.actor = Other
	}
	return k
}

func (t *Tally) add(k kind, from string) {
	now := t.clock.Now()
	if t.counts[k] == nil && !t.open(k.account, now) {
		k = k.other()
	}
	t.addTo(k, count{n: 1, since: now, from: from})
}

// open has an account tell one kind more apart, if it may.
func (t *Tally) open(a account, now time.Time) bool {
	if len(t.counts) >= maxKinds || len(t.accounts) >= maxKinds {
		return false
	}
	b := t.accounts[a]
	if b == nil {
		b = &balance{allowance: allowances[a.class], left: allowances[a.class].rows, at: now}
		t.accounts[a] = b
		if a.class == actors {
			t.actors[a.orgID]++
		}
	}
	if b.live >= b.rows {
		return false
	}
	b.live++
	return true
}

// addTo counts some of a kind. Where even those that stand for others are too
// many, one stands for all.
func (t *Tally) addTo(k kind, more count) {
	if t.counts[k] == nil && len(t.counts) >= 2*maxKinds {
		k = kind{account{class: callers, action: k.action}, Other, Other, "", k.code}
	}
	c := t.counts[k]
	if c == nil {
		c = &count{window: tallyInterval}
		if k.target == Other {
			c.window = k.longest() // it is no news
		}
		c.due = t.clock.Now().Add(c.window)
		t.counts[k] = c
	}
	if c.n == 0 {
		c.since, c.from = more.since, more.from
	}
	if more.since.Before(c.since) {
		c.since = more.since
	}
	if more.from != c.from {
		c.from = several
	}
	c.n += more.n
}

// network is the neighbourhood of an address: /24, or /64.
func network(from string) string {
	addr, err := netip.ParseAddr(from)
	if err != nil {
		withPort, err := netip.ParseAddrPort(from)
		if err != nil {
			return "unknown"
		}
		addr = withPort.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 24
	}
	prefix, _ := addr.Prefix(bits) // fits the family
	return prefix.String()
}

// Name implements lifecycle.Service.
func (*Tally) Name() string { return "tally" }

// Run writes what is due at an interval until ctx ends, and then all.
func (t *Tally) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(tallyInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.write(ctx, false)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
			defer cancel()
			t.Flush(last)
			return nil
		}
	}
}

// Flush puts all that was counted into the outbox, without waiting for the ends
// of windows.
func (t *Tally) Flush(ctx context.Context) { t.write(ctx, true) }

// write puts what is due into the outbox. What can't be written is kept for the
// next time.
func (t *Tally) write(ctx context.Context, all bool) {
	t.writing.Lock()
	defer t.writing.Unlock()
	gathered := t.gather(all)
	for len(gathered) > 0 {
		batch := gathered[:min(len(gathered), tallyBatch)]
		events := make([]nimbus.AuditEvent, len(batch))
		for i, g := range batch {
			events[i] = g.event()
		}
		if err := t.store.RecordAudit(ctx, events); err != nil {
			t.log.WarnContext(ctx, "recording refusals and reads failed, it is tried again", "error", err)
			t.putBack(gathered)
			return
		}
		gathered = gathered[len(batch):]
	}
}

// sum is what an entry tells.
type sum struct {
	kind
	count
}

func (s sum) event() nimbus.AuditEvent {
	e := nimbus.AuditEvent{OrgID: s.orgID, Actor: s.actor, Action: s.action, Target: s.target, Outcome: nimbus.AuditDenied, Count: s.n,
		Detail: map[string]string{"since": s.since.UTC().Format(time.RFC3339)}}
	if s.action == ActionRead {
		e.Outcome = nimbus.AuditAllowed
	} else {
		e.Detail["code"] = string(s.code)
	}
	if from := cmp.Or(s.network, s.from); from != "" {
		e.Detail["network"] = from
	}
	return e
}

// gather takes what is due, as far as the accounts have rows for it; the rest
// goes to what stands for the others. A kind of which nothing came for a window
// is forgotten, and so is an account that has all its rows again.
func (t *Tally) gather(all bool) (due []sum) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	for k, c := range t.counts {
		if k.target == Other || !all && now.Before(c.due) {
			continue
		}
		b := t.accounts[k.account]
		b.refill(now)
		if c.n > 0 && b.left > 0 {
			b.left--
			due = append(due, c.take(k, now))
			continue
		}
		if c.n > 0 {
			t.addTo(k.other(), *c)
		}
		delete(t.counts, k)
		b.live--
	}
	for k, c := range t.counts {
		switch {
		case k.target != Other || !all && now.Before(c.due):
		case c.n == 0:
			delete(t.counts, k)
		default:
			due = append(due, c.take(k, now))
		}
	}
	t.close(now)
	return due
}

// close forgets the accounts that have all their rows again.
func (t *Tally) close(now time.Time) {
	clear(t.actors)
	maps.DeleteFunc(t.accounts, func(a account, b *balance) bool {
		b.refill(now)
		over := b.live == 0 && b.left == b.rows
		if a.class == actors && !over {
			t.actors[a.orgID]++
		}
		return over
	})
}

// take is what was counted; the next window begins.
func (c *count) take(k kind, now time.Time) sum {
	taken := sum{k, *c}
	c.n, c.window = 0, min(2*c.window, k.longest())
	c.due = now.Add(c.window)
	return taken
}

// refill gives an account the rows that it has earned.
func (b *balance) refill(now time.Time) {
	earned := int64(now.Sub(b.at) / b.every)
	b.left, b.at = min(b.left+earned, b.rows), b.at.Add(time.Duration(earned)*b.every)
}

// putBack has what could not be written be tried again, at the next interval.
func (t *Tally) putBack(sums []sum) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range sums {
		c := t.counts[s.kind]
		if c.n > 0 && c.from != s.from {
			s.from = several
		}
		c.n, c.since, c.from, c.window, c.due = c.n+s.n, s.since, s.from, s.window, s.due
		if s.target != Other {
			t.accounts[s.account].left++
		}
	}
}
