package scheduler_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// TestNobodyWaitsInARing: orgs with limits, of which there are always too many
// jobs of several classes, on several replicas. Transactions that waited for
// each other in a ring would each cost PostgreSQL's deadlock_timeout of 1 s, in
// which nothing moves.
func TestNobodyWaitsInARing(t *testing.T) {
	t.Parallel()
	const orgs, perOrg, replicas, most = 4, 60, 3, 5
	w := newWorld(t, storetest.Postgres(t), scheduler.Config{Window: 8})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	planes := []*world{w}
	for len(planes) < replicas {
		planes = append(planes, w.replica(scheduler.Config{Window: 8}))
	}
	var work sync.WaitGroup
	var left atomic.Int64
	left.Store(orgs * perOrg)
	h := &hands{world: w, ctx: ctx, t: t}
	for i := range orgs {
		org := w.org(fmt.Sprintf("org%d", i))
		who := nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: org}
		w.must(w.SetLimit(ctx, who, scheduler.Limit{OrgID: org, Kind: scheduler.LimitOrg, Most: most}))
		for k := range 2 {
			work.Go(func() {
				for range perOrg / 2 {
					_, err := planes[(i+k)%replicas].Submit(ctx, who, scheduler.Submission{
						Class: nimbus.Class{Executor: nimbus.ExecutorMicroVM, CPUs: 1 + k, MemoryMiB: 512 << (i % 2)}, Spec: nimbus.Spec{Command: []string{"true"}}})
					h.ok(err)
				}
			})
		}
	}
	for _, plane := range planes {
		for range 2 {
			host := w.host()
			work.Go(func() {
				for left.Load() > 0 && ctx.Err() == nil {
					r, err := plane.Poll(ctx, host, nimbus.Capacity{CPUs: 8, MemoryMiB: 8 << 10, Sandboxes: 4}, 100*time.Millisecond)
					h.ok(err)
					for _, o := range r.Offers {
						if _, err := plane.Accept(ctx, host, o.Lease); !h.ok(err, nimbus.CodeFenced) {
							continue
						}
						h.ok(plane.ReportPhase(ctx, host, o.Lease, nimbus.PhaseStarted, nimbus.Start{}))
						h.ok(plane.Finish(ctx, host, o.Lease, exited(0)))
						left.Add(-1)
					}
				}
			})
		}
	}
	work.Wait()
	if n := left.Load(); n > 0 {
		t.Errorf("%d jobs did not end", n)
	}
	for i := range orgs {
		limits, _, err := w.Limits(ctx, orgNamed(t, w, i), 0, "")
		w.must(err)
		if len(limits) != 1 || limits[0].Used != 0 {
			t.Errorf("of what nobody uses is left: %+v", limits)
		}
	}
	w.must(w.store.Close())
	if n := deadlocks(t, w.dsn); n > 0 {
		t.Errorf("PostgreSQL had to break %d rings", n)
	}
}

func orgNamed(t *testing.T, w *world, i int) (id string) {
	t.Helper()
	ask(t, w.dsn, "SELECT id FROM orgs WHERE name = $1", &id, fmt.Sprintf("org%d", i))
	return id
}

// deadlocks is how many the database has broken, of which sessions tell at the
// latest when they end.
func deadlocks(t *testing.T, dsn string) (n int) {
	t.Helper()
	for others := 1; others > 0; {
		ask(t, dsn, "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()", &others)
	}
	ask(t, dsn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()", &n)
	return n
}

func ask(t *testing.T, dsn, question string, into any, args ...any) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), question, args...).Scan(into); err != nil {
		t.Fatal(err)
	}
}
