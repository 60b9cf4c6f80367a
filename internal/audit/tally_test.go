package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
)

// outbox is a store of which the outbox alone is used.
type outbox struct {
	Store

	mu     sync.Mutex
	fails  bool
	events []nimbus.AuditEvent
}

func (o *outbox) RecordAudit(ctx context.Context, events []nimbus.AuditEvent) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fails || ctx.Err() != nil {
		return errors.New("the database is gone")
	}
	o.events = append(o.events, events...)
	return nil
}

func (o *outbox) total() (n int64) {
	for _, e := range o.events {
		n += e.Count
	}
	return n
}

// tally is one with a clock that tests move.
type tally struct {
	*Tally
	clock *clock
}

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newTally(o *outbox) tally {
	t := tally{NewTally(o, slog.New(slog.DiscardHandler)), &clock{time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}}
	t.Tally.clock = t.clock
	return t
}

// pass lets time pass, and writes what becomes due at each interval.
func (t tally) pass(ctx context.Context, d time.Duration) {
	for end := t.clock.now.Add(d); t.clock.now.Before(end); {
		t.clock.now = t.clock.now.Add(tallyInterval)
		t.write(ctx, false)
	}
}

// stranger is an address in a network of its own.
func stranger(n int) string { return fmt.Sprintf("[2001:db8:%x:%x::1]:1", n>>16, n&0xffff) }

func TestRefusalsOfAKindAreOneEvent(t *testing.T) {
	t.Parallel()
	o := &outbox{}
	d := newTally(o)
	for _, from := range []string{"192.0.2.1:80", "192.0.2.77", "[::ffff:192.0.2.9]:1"} {
		d.Denied("", "", "", "/call", nimbus.CodeUnauthenticated, from)
		d.clock.now = d.clock.now.Add(time.Second)
	}
	d.Flush(t.Context())
	d.Denied("org_a", "org_a", "user:u", "/call", nimbus.CodeForbidden, "[2001:db8::1]:80")
	d.Flush(t.Context())
	d.Denied("org_a", "org_a", "user:u", "/call", nimbus.CodeForbidden, "nowhere")
	d.Flush(t.Context())
	d.Denied("org_b", "org_a", "user:u", "/call", nimbus.CodeNotFound, "192.0.2.1:80") // not for the eyes of org_b
	d.Denied("org_b", "org_a", "user:u", "/call", nimbus.CodeNotFound, "198.51.100.1:80")
	d.Flush(t.Context())
	d.Read("org_a", "admin:a", "/read", "192.0.2.1:80")
	d.Read("org_a", "admin:a", "/read", "192.0.2.7:80")
	d.Flush(t.Context())
	d.Read("org_a", "admin:a", "/read", "192.0.2.1:80")
	d.Read("org_a", "admin:a", "/read", "198.51.100.1:80")
	d.Flush(t.Context())
	d.Flush(t.Context())
	counted := func(org, actor, action, target string, outcome nimbus.AuditOutcome, n int64, second string, detail ...string) nimbus.AuditEvent {
		e := nimbus.AuditEvent{OrgID: org, Actor: actor, Action: action, Target: target, Outcome: outcome, Count: n,
			Detail: map[string]string{"since": "2026-05-01T12:00:" + second + "Z"}}
		for i := 0; i < len(detail); i += 2 {
			e.Detail[detail[i]] = detail[i+1]
		}
		return e
	}
	want := []nimbus.AuditEvent{
		counted("", "anonymous", "access.deny", "/call", "denied", 3, "00", "code", "unauthenticated", "network", "192.0.2.0/24"),
		counted("org_a", "user:u", "access.deny", "/call", "denied", 1, "03", "code", "forbidden", "network", "2001:db8::/64"),
		counted("org_a", "user:u", "access.deny", "/call", "denied", 1, "03", "code", "forbidden", "network", "unknown"),
		counted("org_b", "user:u", "access.deny", "/call", "denied", 2, "03", "code", "not_found"),
		counted("org_a", "admin:a", "admin.read", "/read", "allowed", 2, "03", "network", "192.0.2.0/24"),
		counted("org_a", "admin:a", "admin.read", "/read", "allowed", 2, "03", "network", "several"),
	}
	if diff := cmp.Diff(want, o.events); diff != "" {
		t.Error(diff)
	}
}

// TestWhoPollsWritesFewRows: the first is there at once, and a day of one every
// five seconds is some entries with all of the number.
func TestWhoPollsWritesFewRows(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		count func(tally)
		most  int
	}{
		"a removed host":    {func(d tally) { d.Denied("", "", "host:h", "/poll", nimbus.CodeUnauthenticated, "192.0.2.1:1") }, 160},
		"an administrator":  {func(d tally) { d.Read("org_a", "admin:a", "/read", "192.0.2.1:1") }, 40},
		"who asks for ids":  {func(d tally) { d.Denied("org_b", "org_a", "user:u", "/get", nimbus.CodeNotFound, "192.0.2.1:1") }, 160},
		"a wrong password ": {func(d tally) { d.Denied("", "", "", "/get", nimbus.CodeUnauthenticated, "192.0.2.1:1") }, 160},
	} {
		o := &outbox{}
		d := newTally(o)
		tt.count(d)
		d.pass(t.Context(), tallyInterval)
		if len(o.events) != 1 {
			t.Errorf("%s: after the first interval there are %d entries", what, len(o.events))
		}
		n := int64(1)
		for range 24 * 360 {
			tt.count(d)
			tt.count(d)
			n += 2
			d.pass(t.Context(), tallyInterval)
		}
		d.Flush(t.Context())
		if len(o.events) > tt.most || o.total() != n {
			t.Errorf("%s: %d entries of %d, at most %d of %d are right", what, len(o.events), o.total(), tt.most, n)
		}
		d.pass(t.Context(), 3*time.Hour)
		if len(d.counts)+len(d.accounts) != 0 {
			t.Errorf("%s: when it is over, %d kinds and %d accounts are remembered", what, len(d.counts), len(d.accounts))
		}
	}
}

// TestAFlood of refusals from everywhere, for hours, fills neither the memory
// nor the ledger, loses no count, and hides no refusal of a known caller.
func TestAFlood(t *testing.T) {
	t.Parallel()
	const intervals, each = 50, 3000
	o := &outbox{}
	d := newTally(o)
	n := 0
	for range intervals {
		for range each {
			n++
			d.Denied("", "", "", "/call", nimbus.CodeUnauthenticated, stranger(n))
		}
		if most := int(allowances[strangers].rows) + 1; len(d.counts) > most {
			t.Fatalf("%d kinds are in memory, want at most %d", len(d.counts), most)
		}
		d.pass(t.Context(), tallyInterval)
	}
	d.Denied("org_a", "org_a", "user:u", "/call", nimbus.CodeForbidden, "192.0.2.1:80")
	d.pass(t.Context(), tallyInterval)
	if last := o.events[len(o.events)-1]; last.OrgID != "org_a" || last.Actor != "user:u" {
		t.Errorf("a known caller's refusal is recorded as %+v", last)
	}
	d.Flush(t.Context())
	earned := int((intervals + 1) * tallyInterval / allowances[strangers].every)
	if most := int(allowances[strangers].rows) + earned + 10; len(o.events) > most {
		t.Errorf("%d events for %d refusals, want at most %d", len(o.events), n, most)
	}
	if o.total() != int64(n)+1 {
		t.Errorf("%d refusals are recorded of %d", o.total(), n+1)
	}
}

// TestAHostileTenant can neither fill another org's chain, by whatever many
// accounts, calls and addresses, nor hide another's refusals there, nor those
// of its victim's own callers.
func TestAHostileTenant(t *testing.T) {
	t.Parallel()
	const hours = 3
	o := &outbox{}
	d := newTally(o)
	n := int64(0)
	for range hours * 360 {
		for i := range 100 {
			n++
			d.Denied("org_b", "org_a", fmt.Sprint("account:", n), fmt.Sprint("/call", i), nimbus.CodeNotFound, stranger(int(n)))
		}
		d.pass(t.Context(), tallyInterval)
	}
	d.Denied("org_b", "org_c", "user:c", "/call", nimbus.CodeNotFound, "192.0.2.1:80")
	d.Denied("org_b", "org_b", "user:b", "/call", nimbus.CodeForbidden, "192.0.2.1:80")
	d.pass(t.Context(), tallyInterval)
	actors := map[string]bool{}
	for _, e := range o.events {
		actors[e.Actor] = true
	}
	if !actors["user:c"] || !actors["user:b"] {
		t.Error("the refusals of others are hidden")
	}
	d.Flush(t.Context())
	if most := int(allowances[others].rows) + hours*60 + hours*6 + 4; len(o.events) > most {
		t.Errorf("%d events for %d refusals, want at most %d", len(o.events), n, most)
	}
	if o.total() != n+2 {
		t.Errorf("%d refusals are recorded of %d", o.total(), n+2)
	}
}

// TestOneMember floods its own org's chain, and the platform's, by all calls that
// there are; the refusals of others are there by name all the same.
func TestOneMember(t *testing.T) {
	t.Parallel()
	o := &outbox{}
	d := newTally(o)
	for range 360 {
		for i := range 100 {
			for _, org := range []string{"org_a", ""} {
				d.Denied(org, "org_a", "user:noisy", fmt.Sprint("/call", i), nimbus.CodeForbidden, "192.0.2.1:80")
				d.Denied(org, "org_a", "user:noisy", fmt.Sprint("/call", i), nimbus.CodeNotFound, "192.0.2.1:80")
			}
		}
		d.pass(t.Context(), tallyInterval)
	}
	before := len(o.events)
	if most := 2 * int(allowances[actors].rows+30+12); before > most {
		t.Errorf("it left %d entries in an hour, want at most %d", before, most)
	}
	d.Denied("org_a", "org_a", "user:quiet", "/call", nimbus.CodeForbidden, "192.0.2.1:80")
	d.Denied("", "org_a", "user:quiet", "/call", nimbus.CodeForbidden, "192.0.2.1:80")
	d.pass(t.Context(), tallyInterval)
	named := 0
	for _, e := range o.events[before:] {
		if e.Actor == "user:quiet" {
			named++
		}
	}
	if named != 2 {
		t.Errorf("%d of two refusals of another are there", named)
	}
}

// TestManyMembers of one org have accounts up to a bound, and then one together.
func TestManyMembers(t *testing.T) {
	t.Parallel()
	o := &outbox{}
	d := newTally(o)
	const members, each = 1000, 10
	for i := range members * each {
		d.Denied("org_a", "org_a", fmt.Sprint("account:", i%members), fmt.Sprint("/call", i), nimbus.CodeForbidden, "192.0.2.1:80")
	}
	d.pass(t.Context(), tallyInterval)
	if most := maxActors*each + int(allowances[callers].rows) + 1; len(o.events) > most || len(d.accounts) > maxActors+1 {
		t.Errorf("%d entries by %d accounts, want at most %d", len(o.events), len(d.accounts), most)
	}
	d.Flush(t.Context())
	if o.total() != members*each {
		t.Errorf("%d refusals are recorded of %d", o.total(), members*each)
	}
}

// TestMemoryIsBounded also where every account stays within its own bound.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	o := &outbox{}
	d := newTally(o)
	const n = 3 * maxKinds
	for i := range n {
		d.Denied(fmt.Sprint("org_", i), fmt.Sprint("org_", i), "user:u", "/call", nimbus.CodeForbidden, "192.0.2.1:80")
	}
	if len(d.counts) > 2*maxKinds+1 || len(d.accounts) > maxKinds {
		t.Errorf("%d kinds and %d accounts are in memory", len(d.counts), len(d.accounts))
	}
	d.Flush(t.Context())
	if o.total() != n {
		t.Errorf("%d refusals are recorded of %d", o.total(), n)
	}
}

// TestAFloodWhileTheDatabaseIsGone stays within the same bound, and its counts
// are kept.
func TestAFloodWhileTheDatabaseIsGone(t *testing.T) {
	t.Parallel()
	o := &outbox{fails: true}
	d := newTally(o)
	n := 0
	for range 20 {
		for range 500 {
			n++
			d.Denied("", "", "", "/call", nimbus.CodeUnauthenticated, stranger(n))
		}
		d.pass(t.Context(), tallyInterval)
	}
	if most := int(allowances[strangers].rows) + 1; len(d.counts) > most {
		t.Errorf("%d kinds are in memory, want at most %d", len(d.counts), most)
	}
	o.fails = false
	d.pass(t.Context(), tallyInterval)
	if named := len(o.events); named < int(allowances[strangers].rows) {
		t.Errorf("once the database is back, %d are told apart", named)
	}
	d.Flush(t.Context())
	if o.total() != int64(n) {
		t.Errorf("%d refusals are recorded of %d", o.total(), n)
	}
}

func TestTheLastRefusalsAreFlushedAtTheEnd(t *testing.T) {
	t.Parallel()
	o := &outbox{}
	d := NewTally(o, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	err := d.Run(ctx, func() {
		d.Denied("", "", "", "/call", nimbus.CodeUnauthenticated, "192.0.2.1:80")
		stop()
	})
	if err != nil || o.total() != 1 {
		t.Errorf("%d refusals are recorded, want 1: %v", o.total(), err)
	}
}
