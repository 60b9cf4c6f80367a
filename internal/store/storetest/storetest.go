// Package storetest is the conformance suite of the store: what the scheduler
// relies on, tried on every engine.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// Store is what is tried.
type Store interface {
	scheduler.Store
	OffsetClock(ctx context.Context, by time.Duration) error
	Depths(ctx context.Context) ([]scheduler.Depth, error)
	HostCounts(ctx context.Context) (map[nimbus.HostState]int, error)
	ClosedCounts(ctx context.Context) (map[nimbus.Pressure]int, error)
	WarmCounts(ctx context.Context) (map[nimbus.Class]int, error)
	Current(ctx context.Context) error
}

// Run tries stores that open returns, each new and empty.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for name, test := range map[string]func(*testing.T, *books){
		"moves along the table alone":       testMoves,
		"keeps the queue in step":           testQueue,
		"takes from the backlog once":       testBacklog,
		"keeps every field of a job":        testJobFields,
		"lists the jobs that are asked for": testList,
		"keeps what a host says":            testHosts,
		"counts what waits":                 testFigures,
		"keeps every field of an attempt":   testAttemptFields,
		"does nothing of what failed":       testRollback,
		"refuses work from a stale row":     testStale,
		"gives a job to one claimer":        testClaimers,
		"renews live leases only":           testRenew,
		"moves GitHub's status forward":     testForgeStatus,
		"remembers deliveries":              testLedger,
		"has one job per key":               testUnique,
		"counts log lines up":               testLog,
		"keeps what attempts use":           testUsage,
		"tells what ended in a time":        testFinishedRuns,
		"tells how jobs went":               testOutcomes,
		"tells what hosts run":              testHostJobs,
		"tells the virtual time":            testVirtualTime,
		"has one clock that can be offset":  testClock,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &books{Store: open(t), t: t})
		})
	}
}

// books is a store with shortcuts for tests.
type books struct {
	Store
	t *testing.T
}

func (b *books) update(f func(ctx context.Context, tx scheduler.Tx) error) {
	b.t.Helper()
	ctx := b.t.Context()
	if err := b.Update(ctx, func(tx scheduler.Tx) error { return f(ctx, tx) }); err != nil {
		b.t.Fatal(err)
	}
}

var class = nimbus.Class{Executor: nimbus.ExecutorMicroVM, Image: "runner", CPUs: 1, MemoryMiB: 1024, Network: nimbus.NetworkInternet}

// job adds a pending job.
func (b *books) job(edit ...func(*scheduler.JobRecord)) *scheduler.JobRecord {
	b.t.Helper()
	j := &scheduler.JobRecord{Job: nimbus.Job{OrgID: nimbus.DefaultOrgID, Source: nimbus.SourceNative, Name: "test", Class: class, MaxAttempts: 3}}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		j.ID = nimbus.NewID(nimbus.PrefixJob, tx.Now())
		for _, e := range edit {
			e(j)
		}
		return tx.InsertJob(ctx, j, "test")
	})
	return j
}

// attempt adds a host and an attempt of j on it.
func (b *books) attempt(j *scheduler.JobRecord, state scheduler.AttemptState) *scheduler.Attempt {
	b.t.Helper()
	a := &scheduler.Attempt{JobID: j.ID, OrgID: j.OrgID, State: state}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		h := nimbus.Host{ID: nimbus.NewID(nimbus.PrefixHost, tx.Now()), Name: "host", JoinedAt: tx.Now(), SeenAt: tx.Now()}
		if err := tx.InsertHost(ctx, h); err != nil {
			return err
		}
		fence, err := tx.MintFences(ctx, 1, 0)
		if err != nil {
			return err
		}
		a.HostID, a.Fence, a.AttemptID = h.ID, fence, nimbus.NewID(nimbus.PrefixAttempt, tx.Now())
		a.OfferedAt, a.ExpiresAt = tx.Now(), tx.Now().Add(time.Minute)
		return tx.InsertAttempt(ctx, a)
	})
	return a
}

// to moves a job along a path.
func (b *books) to(j *scheduler.JobRecord, path ...nimbus.State) {
	b.t.Helper()
	for _, s := range path {
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			return tx.MoveJob(ctx, j, scheduler.Move{To: s, Actor: "test"})
		})
	}
}

// paths lead from pending to every other state but finished.
var paths = map[nimbus.State][]nimbus.State{
	nimbus.StatePending:       nil,
	nimbus.StateQueued:        {nimbus.StateQueued},
	nimbus.StateOffered:       {nimbus.StateQueued, nimbus.StateOffered},
	nimbus.StateAccepted:      {nimbus.StateQueued, nimbus.StateOffered, nimbus.StateAccepted},
	nimbus.StateRunning:       {nimbus.StateQueued, nimbus.StateOffered, nimbus.StateAccepted, nimbus.StateRunning},
	nimbus.StateUnschedulable: {nimbus.StateUnschedulable},
}

func testMoves(t *testing.T, b *books) {
	results := []nimbus.Result{"", nimbus.ResultSuccess, nimbus.ResultFailure, nimbus.ResultCancelled, nimbus.ResultTimedOut, nimbus.ResultLost}
	for from, path := range paths {
		for _, to := range nimbus.States() {
			for _, result := range results {
				if (result == "") == (to == nimbus.StateFinished) {
					continue
				}
				j := b.job()
				b.to(j, path...)
				err := b.Update(t.Context(), func(tx scheduler.Tx) error {
					return tx.MoveJob(t.Context(), j, scheduler.Move{To: to, Result: result, Actor: "test"})
				})
				legal := from.CanBecome(to)
				if to == nimbus.StateFinished {
					legal = from.CanFinish(result)
				}
				if (err == nil) != legal {
					t.Errorf("from %s to %s %s: %v", from, to, result, err)
				}
			}
		}
	}
}

func testQueue(t *testing.T, b *books) {
	counts := func() (queued, flows int) {
		b.update(func(ctx context.Context, tx scheduler.Tx) (err error) {
			head, err := tx.QueueHead(ctx, class.ID())
			if err != nil {
				return err
			}
			f, err := tx.Backlog(ctx, class.ID())
			queued, flows = head.Length, len(f)
			if head.Backlog != (flows > 0) {
				t.Errorf("there is a backlog: %v, with %d flows", head.Backlog, flows)
			}
			return err
		})
		return queued, flows
	}
	for state, path := range paths {
		j := b.job()
		b.to(j, path...)
		queued, flows := counts()
		if queued != btoi(state == nimbus.StateQueued) || flows != btoi(state == nimbus.StatePending) {
			t.Errorf("a job that is %s: %d in the queue, %d flows in the backlog", state, queued, flows)
		}
		result := nimbus.ResultCancelled
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			return tx.MoveJob(ctx, j, scheduler.Move{To: nimbus.StateFinished, Result: result, Actor: "test"})
		})
		if queued, flows := counts(); queued+flows != 0 {
			t.Errorf("a job that was %s and is finished is still waiting", state)
		}
	}
	// A class that changes takes the job's place along.
	j := b.job()
	j.Class.CPUs = 2
	b.update(func(ctx context.Context, tx scheduler.Tx) error { return tx.SaveJob(ctx, j) })
	if _, flows := counts(); flows != 0 {
		t.Error("the job waits in the backlog of its old class")
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func testJobFields(t *testing.T, b *books) {
	at := time.UnixMicro(1_700_000_000_000_001).UTC()
	j := b.job(func(j *scheduler.JobRecord) {
		j.Repo, j.Labels, j.RepoID, j.AnyExecutor, j.IdempotencyKey = "o/r", []string{"nimbus", "x64"}, "repo_x", true, "key"
		j.Spec = nimbus.Spec{Command: []string{"a", "b"}, Env: map[string]string{"K": "V"}, Timeout: time.Hour, Repeatable: true}
		j.GitHub = nimbus.GitHubJob{InstallationID: 1, Owner: "o", Repo: "r", JobID: 2, RunID: 3, HTMLURL: "u"}
		j.Timeline.ReceivedAt, j.DueAt, j.Metadata = at, at, map[string]string{"k": "v", "only": ""}
	})
	j.AttemptCount, j.Rank, j.CheckAt, j.Checks = 2, 7, at, 3
	j.Stop = scheduler.Ending{Result: nimbus.ResultTimedOut, Reason: nimbus.Reason{Code: nimbus.ReasonTimeout, Message: "m"}}
	j.Reason = nimbus.Reason{Code: nimbus.ReasonNoHost, Message: "n"}
	b.update(func(ctx context.Context, tx scheduler.Tx) error { return tx.SaveJob(ctx, j) })
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		got, err := tx.LockJob(ctx, j.ID)
		if diff := cmp.Diff(j, got); diff != "" {
			t.Errorf("-saved +read:\n%s", diff)
		}
		return err
	})
}

func testAttemptFields(t *testing.T, b *books) {
	j := b.job()
	a := b.attempt(j, scheduler.AttemptOffered)
	at, code := time.UnixMicro(1_700_000_000_000_001).UTC(), 7
	a.State, a.ExpiresAt, a.StopAt, a.AcceptedAt, a.SandboxReadyAt = scheduler.AttemptLive, at, at.Add(1000), at.Add(2000), at.Add(3000)
	a.StartedAt, a.RunningAt, a.FirstOutputAt, a.EndedAt, a.DestroyedAt = at.Add(4000), at.Add(5000), at.Add(6000), at.Add(7000), at.Add(8000)
	a.Runner, a.RemoveRunnerAt, a.TokenHash = nimbus.Runner{ID: 5, Name: "n", Org: "octo"}, at.Add(9000), "hash"
	a.Outcome = &nimbus.Outcome{Result: nimbus.ResultFailure, ExitCode: &code, LogLines: 3}
	j.AttemptID = a.AttemptID
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		copied := *a // the transaction may run again
		return errors.Join(tx.SaveAttempt(ctx, &copied), tx.SaveJob(ctx, j))
	})
	err := b.View(t.Context(), func(r scheduler.Reader) error {
		got, err := r.Attempt(t.Context(), a.AttemptID)
		if err != nil {
			return err
		}
		a.Version = got.Version
		if diff := cmp.Diff(a, got); diff != "" {
			t.Errorf("-saved +read:\n%s", diff)
		}
		v, err := r.Job(t.Context(), j.OrgID, j.ID)
		if v.HostID != a.HostID || v.ExitCode == nil || *v.ExitCode != 7 || !v.Timeline.RunningAt.Equal(a.RunningAt) {
			t.Errorf("the job does not show its attempt: %+v", v)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func testRollback(t *testing.T, b *books) {
	j := b.job()
	boom := errors.New("boom")
	err := b.Update(t.Context(), func(tx scheduler.Tx) error {
		c := *j
		if err := tx.MoveJob(t.Context(), &c, scheduler.Move{To: nimbus.StateQueued, Actor: "test"}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		got, err := tx.JobRecord(ctx, j.ID)
		head, err2 := tx.QueueHead(ctx, class.ID())
		if got.State != nimbus.StatePending || head.Length != 0 {
			t.Errorf("a failed transaction left the job %s and %d in the queue", got.State, head.Length)
		}
		return errors.Join(err, err2)
	})
}

func testStale(t *testing.T, b *books) {
	j := b.job()
	a := b.attempt(j, scheduler.AttemptLive)
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		renewed, err := tx.RenewLeases(ctx, []scheduler.HeldLease{{Lease: a.Lease, HostID: a.HostID}}, tx.Now().Add(time.Hour))
		if len(renewed) != 1 {
			t.Error("a live lease is not renewed")
		}
		return err
	})
	a.State = scheduler.AttemptEnded // decided by what was read before the renewal
	err := b.Update(t.Context(), func(tx scheduler.Tx) error { return tx.SaveAttempt(t.Context(), a) })
	if nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("a change from a stale row: %v", err)
	}
}

func testClaimers(t *testing.T, b *books) {
	const jobs, claimers = 60, 8
	for i := range jobs {
		j := b.job()
		j.Rank = int64(jobs - i)
		b.to(j, nimbus.StateQueued)
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range claimers {
		wg.Go(func() {
			for {
				var got []*scheduler.JobRecord
				err := b.Update(t.Context(), func(tx scheduler.Tx) (err error) {
					if got, err = tx.Claim(t.Context(), []string{class.ID(), "other"}, 2); err != nil {
						return err
					}
					for i, j := range got {
						if i > 0 && got[i-1].Rank > j.Rank {
							return fmt.Errorf("rank %d before %d", got[i-1].Rank, j.Rank)
						}
						if err := tx.MoveJob(t.Context(), j, scheduler.Move{To: nimbus.StateOffered, Actor: "test"}); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, j := range got {
					if seen[j.ID] {
						t.Errorf("job %s was claimed twice", j.ID)
					}
					seen[j.ID] = true
				}
				all := len(seen) == jobs
				mu.Unlock()
				if all || len(got) == 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != jobs {
		t.Errorf("%d of %d jobs were claimed", len(seen), jobs)
	}
}

func testRenew(t *testing.T, b *books) {
	a := b.attempt(b.job(), scheduler.AttemptLive)
	renew := func(host string, l nimbus.Lease) (renewed bool) {
		b.update(func(ctx context.Context, tx scheduler.Tx) (err error) {
			all, err := tx.RenewLeases(ctx, []scheduler.HeldLease{{Lease: l, HostID: host}}, tx.Now().Add(30*time.Second))
			renewed = len(all) == 1 && all[0].HeldLease == scheduler.HeldLease{Lease: a.Lease, HostID: a.HostID} && all[0].JobID == a.JobID
			return err
		})
		return renewed
	}
	switch {
	case renew("host_x", a.Lease):
		t.Error("another host renewed it")
	case renew(a.HostID, nimbus.Lease{AttemptID: a.AttemptID, Fence: a.Fence + 1}):
		t.Error("another fence renewed it")
	case !renew(a.HostID, a.Lease):
		t.Error("it was not renewed")
	}
	if err := b.OffsetClock(t.Context(), 31*time.Second); err != nil {
		t.Fatal(err)
	}
	if renew(a.HostID, a.Lease) {
		t.Error("an expired lease was renewed")
	}
	err := b.View(t.Context(), func(r scheduler.Reader) error {
		ids, err := r.ExpiredAttempts(t.Context(), 10)
		if len(ids) != 1 || ids[0] != a.AttemptID {
			t.Errorf("expired: %v", ids)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func testForgeStatus(t *testing.T, b *books) {
	for i, try := range []struct {
		status  nimbus.ForgeStatus
		forward bool
	}{{nimbus.ForgeQueued, true}, {nimbus.ForgeQueued, false}, {nimbus.ForgeCompleted, true}, {nimbus.ForgeInProgress, false}, {nimbus.ForgeCompleted, false}} {
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			got, err := tx.AdvanceForgeJob(ctx, &nimbus.ForgeEvent{Status: try.status, Job: nimbus.GitHubJob{JobID: 1}})
			if got != try.forward {
				t.Errorf("step %d, %s: forward is %v", i, try.status, got)
			}
			return err
		})
	}
}

func testLedger(t *testing.T, b *books) {
	insert := func() (isNew bool) {
		b.update(func(ctx context.Context, tx scheduler.Tx) (err error) {
			isNew, err = tx.InsertDelivery(ctx, nimbus.Delivery{ID: "d", ReceivedAt: tx.Now()})
			return errors.Join(err, tx.SetDeliveryOutcome(ctx, "d", nimbus.DeliveryAccepted))
		})
		return isNew
	}
	if !insert() || insert() {
		t.Error("the ledger does not know what it has")
	}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		n, err := tx.Purge(ctx, tx.Now().Add(time.Second), 10)
		if n != 1 {
			t.Errorf("%d rows purged", n)
		}
		return err
	})
	if !insert() {
		t.Error("a purged delivery is still known")
	}
}

func testUnique(t *testing.T, b *books) {
	keyed := func(j *scheduler.JobRecord) { j.IdempotencyKey = "k" }
	j := b.job(keyed)
	other := *j
	err := b.Update(t.Context(), func(tx scheduler.Tx) error {
		other.ID = nimbus.NewID(nimbus.PrefixJob, tx.Now())
		return tx.InsertJob(t.Context(), &other, "test")
	})
	if nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("the same key twice: %v", err)
	}
	err = b.View(t.Context(), func(r scheduler.Reader) error {
		_, err := r.JobByIdempotencyKey(t.Context(), j.OrgID, "")
		if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Errorf("no key: %v", err)
		}
		id, err := r.JobByIdempotencyKey(t.Context(), j.OrgID, "k")
		if id != j.ID {
			t.Errorf("the key leads to %s", id)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func testLog(t *testing.T, b *books) {
	a := b.attempt(b.job(), scheduler.AttemptLive)
	stored := func(org string, lines int64, wantChanged, wantComplete bool) {
		t.Helper()
		_, complete, changed, err := b.LogStored(t.Context(), nimbus.LogKey{OrgID: org, AttemptID: a.AttemptID}, lines)
		if err != nil || changed != wantChanged || complete != wantComplete {
			t.Errorf("%d lines: changed %v, complete %v, %v", lines, changed, complete, err)
		}
	}
	stored(a.OrgID, 5, true, false)
	stored(a.OrgID, 4, false, false)
	stored("org_x", 6, false, false)
	b.update(func(ctx context.Context, tx scheduler.Tx) error { return tx.SetLogTotal(ctx, a.AttemptID, 7) })
	stored(a.OrgID, 6, true, false)
	stored(a.OrgID, 7, true, true)
}

func testVirtualTime(t *testing.T, b *books) {
	want := func(v int64) {
		t.Helper()
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			got, err := tx.VirtualTime(ctx)
			if got != v {
				t.Errorf("virtual time is %d, want %d", got, v)
			}
			return err
		})
	}
	want(0)
	mint := func(rank int64) {
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			_, err := tx.MintFences(ctx, 2, rank)
			return err
		})
	}
	mint(80)
	want(80)
	mint(33) // of a class whose jobs wait for long
	want(80)
}

func testClock(t *testing.T, b *books) {
	if err := b.OffsetClock(t.Context(), -time.Hour); err != nil {
		t.Fatal(err)
	}
	b.update(func(_ context.Context, tx scheduler.Tx) error {
		if behind := time.Since(tx.Now()); behind < time.Hour || behind > 61*time.Minute {
			t.Errorf("the clock is behind by %v", behind)
		}
		return nil
	})
}
