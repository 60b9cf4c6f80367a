package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

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

func newDenials(o *outbox) *Denials { return NewDenials(o, slog.New(slog.DiscardHandler)) }

func TestRefusalsOfAKindAreOneEvent(t *testing.T) {
	t.Parallel()
	o := &outbox{}
	d := newDenials(o)
	for _, from := range []string{"192.0.2.1:80", "192.0.2.77:81", "[::ffff:192.0.2.9]:1"} {
		d.Denied("", "", "/call", nimbus.CodeUnauthenticated, from)
	}
	d.Flush(t.Context())
	d.Denied("org_a", "user:u", "/call", nimbus.CodeForbidden, "[2001:db8::1]:80")
	d.Flush(t.Context())
	d.Denied("org_a", "user:u", "/call", nimbus.CodeForbidden, "nowhere")
	d.Flush(t.Context())
	d.Flush(t.Context())
	denied := func(org, actor, code, network string, n int64) nimbus.AuditEvent {
		return nimbus.AuditEvent{OrgID: org, Actor: actor, Action: "access.deny", Target: "/call", Outcome: nimbus.AuditDenied, Count: n,
			Detail: map[string]string{"code": code, "network": network}}
	}
	want := []nimbus.AuditEvent{
		denied("", "anonymous", "unauthenticated", "192.0.2.0/24", 3),
		denied("org_a", "user:u", "forbidden", "2001:db8::/64", 1),
		denied("org_a", "user:u", "forbidden", "unknown", 1),
	}
	if diff := cmp.Diff(want, o.events); diff != "" {
		t.Error(diff)
	}
}

// TestAFlood of refusals from everywhere, for hours, fills neither the memory
// nor the ledger, loses no count, and hides no refusal of a known caller.
func TestAFlood(t *testing.T) {
	t.Parallel()
	const intervals, each = 50, 3000
	o := &outbox{}
	d := newDenials(o)
	n := 0
	for range intervals {
		for range each {
			n++
			d.Denied("", "", "/call", nimbus.CodeUnauthenticated, fmt.Sprintf("[2001:db8:%x:%x::1]:1", n>>16, n&0xffff))
		}
		if len(d.counts) > denialKinds+1 {
			t.Fatalf("%d kinds are in memory", len(d.counts))
		}
		d.Flush(t.Context())
	}
	if most := denialKinds + intervals*(refillKinds+1); len(o.events) > most {
		t.Errorf("%d events for %d refusals, want at most %d", len(o.events), n, most)
	}
	if o.total() != int64(n) {
		t.Errorf("%d refusals are recorded of %d", o.total(), n)
	}
	d.Denied("org_a", "user:u", "/call", nimbus.CodeForbidden, "192.0.2.1:80")
	d.Flush(t.Context())
	if last := o.events[len(o.events)-1]; last.OrgID != "org_a" || last.Actor != "user:u" {
		t.Errorf("a known caller's refusal is recorded as %+v", last)
	}
}

// TestAFloodWhileTheDatabaseIsGone stays within the same bound, and its counts
// are kept.
func TestAFloodWhileTheDatabaseIsGone(t *testing.T) {
	t.Parallel()
	o := &outbox{fails: true}
	d := newDenials(o)
	n := 0
	for range 20 {
		for range 500 {
			n++
			d.Denied("", "", "/call", nimbus.CodeUnauthenticated, fmt.Sprintf("[2001:db8:%x:%x::1]:1", n>>16, n&0xffff))
		}
		d.Flush(t.Context())
	}
	if len(d.counts) > denialKinds+1 {
		t.Errorf("%d kinds are in memory", len(d.counts))
	}
	o.fails = false
	d.Flush(t.Context())
	if o.total() != int64(n) {
		t.Errorf("%d refusals are recorded of %d", o.total(), n)
	}
}

func TestTheLastRefusalsAreFlushedAtTheEnd(t *testing.T) {
	t.Parallel()
	o := &outbox{}
	d := newDenials(o)
	ctx, stop := context.WithCancel(t.Context())
	err := d.Run(ctx, func() {
		d.Denied("", "", "/call", nimbus.CodeUnauthenticated, "192.0.2.1:80")
		stop()
	})
	if err != nil || o.total() != 1 {
		t.Errorf("%d refusals are recorded, want 1: %v", o.total(), err)
	}
}
