package store_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/leader"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// TestTerms plays an election on both engines, and holds writes to the term in
// which they are done.
func TestTerms(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T, *store.Store){
		"grow with each change of leader": testTermsGrow,
		"end when another leads":          testDeposed,
		"end by themselves":               testOverdue,
	}
	for name, test := range tests {
		t.Run("sqlite "+name, func(t *testing.T) { t.Parallel(); test(t, open(t, storetest.SQLite(t))) })
		t.Run("postgres "+name, func(t *testing.T) { t.Parallel(); test(t, open(t, storetest.Postgres(t))) })
	}
	t.Run("postgres last as long as a transaction", func(t *testing.T) { t.Parallel(); testHeld(t, open(t, storetest.Postgres(t))) })
}

func testTermsGrow(t *testing.T, s *store.Store) {
	ctx := t.Context()
	lead := func(holder string, want bool) int64 {
		t.Helper()
		fence, leads, err := s.Lead(ctx, "work", holder, electedFor)
		if err != nil || leads != want {
			t.Fatalf("%s leads: %v, %v", holder, leads, err)
		}
		return fence
	}
	first := lead("a", true)
	lead("b", false)
	if again := lead("a", true); again != first {
		t.Errorf("a renewal makes term %d of %d", again, first)
	}
	offset(t, s, electedFor)
	second := lead("b", true)
	lead("a", false)
	if err := s.Resign(ctx, "work", "a"); err != nil { // who no longer leads takes nothing away
		t.Fatal(err)
	}
	lead("a", false)
	if err := s.Resign(ctx, "work", "b"); err != nil {
		t.Fatal(err)
	}
	if third := lead("a", true); first >= second || second >= third {
		t.Errorf("the terms are %d, %d, %d", first, second, third)
	}
}

// testDeposed: what a replica writes that was stopped while it led, and that
// goes on when another leads, is refused whole.
func testDeposed(t *testing.T, s *store.Store) {
	term := elect(t, s)
	if fence, err := mint(term, s); err != nil || fence != 1 {
		t.Fatalf("the leader's own write: %d, %v", fence, err)
	}
	offset(t, s, electedFor)
	if _, leads, err := s.Lead(t.Context(), "work", "the next", leader.Lease); err != nil || !leads {
		t.Fatalf("another leads: %v, %v", leads, err)
	}
	if _, err := mint(term, s); nimbus.ErrorCode(err) != nimbus.CodeFenced {
		t.Errorf("a write in a term that is over: %v", err)
	}
	if fence, err := mint(t.Context(), s); err != nil || fence != 2 {
		t.Errorf("the refused write left something behind: %d, %v", fence, err)
	}
}

// testOverdue: a term whose lease ran out is over before anybody follows.
func testOverdue(t *testing.T, s *store.Store) {
	term := elect(t, s)
	offset(t, s, electedFor)
	if _, err := mint(term, s); nimbus.ErrorCode(err) != nimbus.CodeFenced {
		t.Errorf("a write past the lease: %v", err)
	}
}

// testHeld: nobody follows in the midst of a transaction that has proved its
// term, even if the lease runs out meanwhile. SQLite has one writer anyway.
func testHeld(t *testing.T, s *store.Store) {
	term := elect(t, s)
	followed := make(chan error, 1)
	err := s.Update(term, func(scheduler.Tx) error {
		offset(t, s, electedFor)
		go func() {
			_, leads, err := s.Lead(t.Context(), "work", "the next", leader.Lease)
			if err == nil && !leads {
				err = errors.New("nobody leads, and yet it may not")
			}
			followed <- err
		}()
		select {
		case err := <-followed:
			t.Errorf("another came through in the midst of a transaction: %v", err)
			followed <- nil
		case <-time.After(300 * time.Millisecond): // it waits: no time would show more
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := <-followed; err != nil {
		t.Error(err)
	}
}

// elect has a replica lead, and returns the context of its work as a process
// has it that was stopped in the midst of it: it has not heard of its end.
func elect(t *testing.T, s *store.Store) context.Context {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	terms, ended := make(chan context.Context, 1), make(chan struct{})
	quiet := slog.New(slog.DiscardHandler)
	go func() {
		defer close(ended)
		leader.Elector{Store: stayed{s}, Name: "work", Log: quiet}.Run(ctx, func(ctx context.Context) { terms <- ctx; <-ctx.Done() })
	}()
	term := context.WithoutCancel(<-terms)
	stop()
	<-ended
	return term
}

// electedFor is a lease that no machine is too slow for: it ends when the test moves
// the clock, and never before.
const electedFor = time.Hour

// stayed is a store that hears nothing of a replica that goes, and whose leases are
// long.
type stayed struct{ *store.Store }

// Lead implements leader.Store.
func (s stayed) Lead(ctx context.Context, name, holder string, _ time.Duration) (int64, bool, error) {
	return s.Store.Lead(ctx, name, holder, electedFor)
}

// Resign implements leader.Store.
func (stayed) Resign(context.Context, string, string) error { return nil }

func offset(t *testing.T, s *store.Store, by time.Duration) {
	t.Helper()
	if err := s.OffsetClock(t.Context(), by); err != nil {
		t.Fatal(err)
	}
}

// mint writes something that shows whether it was written.
func mint(ctx context.Context, s *store.Store) (fence int64, err error) {
	err = s.Update(ctx, func(tx scheduler.Tx) error {
		fence, err = tx.MintFences(ctx, 1, 0)
		return err
	})
	return fence, err
}
