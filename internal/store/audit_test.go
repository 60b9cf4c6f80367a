package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/audit"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/leader"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// ledgers is a database with a ledger, which can be opened again.
type ledgers struct {
	dsn, keyFile string
}

func onBothEngines(t *testing.T, test func(*testing.T, ledgers)) {
	t.Helper()
	for name, dsn := range map[string]func(*testing.T) string{"sqlite": sqliteDSN, "postgres": func(t *testing.T) string { return testenv.Postgres(t) }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, ledgers{dsn(t), filepath.Join(t.TempDir(), "master.key")})
		})
	}
}

func (l ledgers) open(t *testing.T) (*store.Store, *audit.Ledger) {
	t.Helper()
	s := open(t, l.dsn)
	keyring, err := identity.OpenKeyring(l.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := audit.Open(t.Context(), audit.Config{Log: slog.New(slog.DiscardHandler)}, s, identity.Secrets{Store: s, Keyring: keyring})
	if err != nil {
		t.Fatal(err)
	}
	return s, ledger
}

// chain is one of the ledger's. It implements audit.Source.
type chain struct {
	*audit.Ledger
	org string
}

func (c chain) Entries(ctx context.Context, page nimbus.PageRequest) ([]nimbus.AuditEntry, string, error) {
	page.Size = 7 // several pages
	return c.Ledger.Entries(ctx, c.org, nimbus.AuditFilter{OldestFirst: true}, page)
}

func (c chain) Checkpoints(ctx context.Context, page nimbus.PageRequest) ([]nimbus.AuditCheckpoint, string, error) {
	page.Size = 2
	return c.Ledger.Checkpoints(ctx, c.org, page)
}

// targets verifies a chain, and returns what its entries are about.
func targets(t *testing.T, l *audit.Ledger, org string) (out []string) {
	t.Helper()
	v := audit.NewVerifier(org, l.PublicKey())
	if err := audit.Walk(t.Context(), chain{l, org}, v); err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.End(); err != nil {
		t.Fatal(err)
	}
	for next := ""; ; {
		entries, more, err := l.Entries(t.Context(), org, nimbus.AuditFilter{OldestFirst: true}, nimbus.PageRequest{Token: next})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, e.Target)
		}
		if next = more; next == "" {
			return out
		}
	}
}

func record(t *testing.T, s *store.Store, org string, targets ...string) {
	t.Helper()
	for _, target := range targets { // a transaction each, so that their order is known
		e := nimbus.AuditEvent{OrgID: org, Actor: "user:u", Action: "thing.make", Target: target, Outcome: nimbus.AuditAllowed}
		if err := s.RecordAudit(t.Context(), []nimbus.AuditEvent{e}); err != nil {
			t.Fatal(err)
		}
	}
}

func numbered(prefix string, from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprintf("%s%03d", prefix, i))
	}
	return out
}

// TestWhatIsRecordedIsChainedOnce in its order, each org's in its own chain, also
// over a restart.
func TestWhatIsRecordedIsChainedOnce(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, l ledgers) {
		s, ledger := l.open(t)
		record(t, s, "org_a", numbered("a", 1, 9)...)
		record(t, s, "org_b", numbered("b", 1, 3)...)
		if got := targets(t, ledger, "org_a"); got != nil {
			t.Errorf("in the chain before it is chained: %q", got)
		}
		if err := ledger.Chain(t.Context()); err != nil {
			t.Fatal(err)
		}
		record(t, s, "org_a", numbered("a", 10, 12)...) // the process ends before its next batch

		s, ledger = l.open(t)
		record(t, s, "org_a", numbered("a", 13, 14)...)
		for range 2 {
			if err := ledger.Chain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for org, want := range map[string][]string{"org_a": numbered("a", 1, 14), "org_b": numbered("b", 1, 3), "org_c": nil, "": nil} {
			if diff := cmp.Diff(want, targets(t, ledger, org)); diff != "" {
				t.Errorf("the chain of %q (-want +got):\n%s", org, diff)
			}
		}
	})
}

// TestChainersAtOnce fork no chain, and chain each event once.
func TestChainersAtOnce(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, l ledgers) {
		s, first := l.open(t)
		_, second := l.open(t)
		if !first.PublicKey().Equal(second.PublicKey()) {
			t.Fatal("two replicas have two keys")
		}
		const writers, each = 3, 40
		var all sync.WaitGroup
		done := make(chan struct{})
		for w := range writers {
			all.Go(func() {
				for i := range each {
					e := nimbus.AuditEvent{OrgID: fmt.Sprint("org_", i%2), Actor: "user:u", Action: "thing.make", Target: fmt.Sprint(w, "-", i), Outcome: nimbus.AuditAllowed}
					if err := s.RecordAudit(t.Context(), []nimbus.AuditEvent{e}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		var chainers sync.WaitGroup
		for _, ledger := range []*audit.Ledger{first, second, first, second} {
			chainers.Go(func() {
				for last := false; !last; {
					select {
					case <-done:
						last = true // what was recorded is all there
					default:
					}
					if err := ledger.Chain(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		close(done)
		chainers.Wait()
		seen := map[string]int{}
		for _, org := range []string{"org_0", "org_1"} {
			for _, target := range targets(t, first, org) {
				seen[target]++
			}
		}
		for target, n := range seen {
			if n != 1 {
				t.Errorf("%s is chained %d times", target, n)
			}
		}
		if len(seen) != writers*each {
			t.Errorf("%d events are chained of %d", len(seen), writers*each)
		}
	})
}

// TestADeposedLeaderChainsNothing: it was paused past its lease.
func TestADeposedLeaderChainsNothing(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, l ledgers) {
		s, ledger := l.open(t)
		record(t, s, "org_a", "one")
		fence, leads, err := s.Lead(t.Context(), "audit", "first", time.Minute)
		if err != nil || !leads {
			t.Fatal(leads, err)
		}
		if err := s.Resign(t.Context(), "audit", "first"); err != nil {
			t.Fatal(err)
		}
		if _, leads, err = s.Lead(t.Context(), "audit", "second", time.Minute); err != nil || !leads {
			t.Fatal(leads, err)
		}
		// The elector of before believes that it leads.
		old := leader.Elector{Store: paused{s, fence}, Name: "audit", Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		old.Run(ctx, func(ctx context.Context) {
			defer stop()
			if err := ledger.Chain(ctx); nimbus.ErrorCode(err) != nimbus.CodeFenced {
				t.Errorf("a leader of before: %v", err)
			}
		})
		if got := targets(t, ledger, "org_a"); got != nil {
			t.Errorf("it chained %q", got)
		}
	})
}

// paused says that the first term goes on.
type paused struct {
	leader.Store
	fence int64
}

func (p paused) Lead(context.Context, string, string, time.Duration) (int64, bool, error) {
	return p.fence, true, nil
}
func (paused) Resign(context.Context, string, string) error { return nil }

// TestAnEventIsOfItsTransaction: one that is rolled back leaves none.
func TestAnEventIsOfItsTransaction(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, l ledgers) {
		s, ledger := l.open(t)
		wrong := errors.New("changed my mind")
		for _, outcome := range []error{wrong, nil} {
			err := s.Update(t.Context(), func(tx scheduler.Tx) error {
				e := nimbus.AuditEvent{OrgID: "org_a", Actor: "user:\x00\xff", Action: "thing.make", Target: fmt.Sprint(outcome), Outcome: nimbus.AuditAllowed}
				return errors.Join(tx.Audit(t.Context(), e), outcome)
			})
			if !errors.Is(err, outcome) {
				t.Fatal(err)
			}
		}
		if err := ledger.Chain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"<nil>"}, targets(t, ledger, "org_a")); diff != "" {
			t.Error(diff)
		}
	})
}

// TestFindEntries by what is asked for, in pages, newest first.
func TestFindEntries(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, l ledgers) {
		s, ledger := l.open(t)
		var want []nimbus.AuditEvent
		for i := range 12 {
			if err := s.OffsetClock(t.Context(), time.Duration(i)*time.Hour); err != nil {
				t.Fatal(err)
			}
			e := nimbus.AuditEvent{OrgID: "org_a", Actor: fmt.Sprint("user:", i%2), Action: fmt.Sprint("thing.", i%3), Target: fmt.Sprint(i % 4),
				Outcome: nimbus.AuditDenied, Count: int64(i + 1), Detail: map[string]string{"n": fmt.Sprint(i), "odd \x00": "\u2028<"}}
			want = append([]nimbus.AuditEvent{e}, want...)
			if err := s.RecordAudit(t.Context(), []nimbus.AuditEvent{e, {OrgID: "org_b", Actor: e.Actor, Action: e.Action, Target: e.Target}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := ledger.Chain(t.Context()); err != nil {
			t.Fatal(err)
		}
		all := find(t, ledger, nimbus.AuditFilter{})
		for i, e := range all {
			if diff := cmp.Diff(want[i], e.AuditEvent); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		for _, f := range []nimbus.AuditFilter{
			{}, {OldestFirst: true}, {Actor: "user:1"}, {Action: "thing.2", OldestFirst: true}, {Target: "3"}, {Actor: "user:0", Target: "2"},
			{Since: all[7].At}, {Until: all[7].At}, {Since: all[9].At, Until: all[3].At, Actor: "user:1"}, {Actor: "user:\x00"},
		} {
			var want []nimbus.AuditEntry
			for _, e := range all {
				if (f.Actor == "" || f.Actor == e.Actor) && (f.Action == "" || f.Action == e.Action) && (f.Target == "" || f.Target == e.Target) &&
					!e.At.Before(f.Since) && (f.Until.IsZero() || e.At.Before(f.Until)) {
					if want = append(want, e); f.OldestFirst {
						want = append([]nimbus.AuditEntry{e}, want[:len(want)-1]...)
					}
				}
			}
			if diff := cmp.Diff(want, find(t, ledger, f), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", f, diff)
			}
		}
		for _, token := range []string{"x", "0", "-1", "99999999999999999999"} {
			if _, _, err := ledger.Entries(t.Context(), "org_a", nimbus.AuditFilter{}, nimbus.PageRequest{Token: token}); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
				t.Errorf("the page token %q: %v", token, err)
			}
		}
	})
}

// find reads all pages of what is asked for of org_a.
func find(t *testing.T, l *audit.Ledger, f nimbus.AuditFilter) (all []nimbus.AuditEntry) {
	t.Helper()
	for next := ""; ; {
		page, more, err := l.Entries(t.Context(), "org_a", f, nimbus.PageRequest{Size: 5, Token: next})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > 5 {
			t.Errorf("a page of %d", len(page))
		}
		if all, next = append(all, page...), more; next == "" {
			return all
		}
	}
}

// TestTheLedgerIsOnlyAddedTo: the database itself refuses the rest.
func TestTheLedgerIsOnlyAddedTo(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, l ledgers) {
		s, ledger := l.open(t)
		record(t, s, "org_a", "one")
		if err := ledger.Chain(t.Context()); err != nil {
			t.Fatal(err)
		}
		driver, dsn := "pgx", l.dsn
		if path, isFile := strings.CutPrefix(l.dsn, "sqlite:"); isFile {
			driver, dsn = "sqlite", path
		}
		db, err := sql.Open(driver, dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, statement := range []string{
			"UPDATE audit_ledger SET actor = 'user:somebody-else'", "DELETE FROM audit_ledger",
			"UPDATE audit_checkpoints SET at = 0", "DELETE FROM audit_checkpoints",
		} {
			if _, err := db.ExecContext(t.Context(), statement); err == nil {
				t.Errorf("done: %s", statement)
			}
		}
		if diff := cmp.Diff([]string{"one"}, targets(t, ledger, "org_a")); diff != "" {
			t.Error(diff)
		}
	})
}
