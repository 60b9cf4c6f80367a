package scheduler_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

func TestPollIsWokenByAJobAndByACancel(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		results := make(chan scheduler.PollResult, 1)
		poll := func() {
			r, err := w.Poll(t.Context(), host, plenty, 30*time.Second)
			if err != nil {
				t.Error(err)
			}
			results <- r
		}
		begin := time.Now()
		go poll()
		j := w.submit(nimbus.Spec{})
		r := <-results
		if len(r.Offers) != 1 || r.Offers[0].JobID != j.ID {
			t.Fatalf("poll: %+v", r)
		}
		l := r.Offers[0].Lease
		_, err := w.Accept(t.Context(), host, l)
		w.must(err)
		go poll()
		_, err = w.Cancel(t.Context(), admin, nimbus.DefaultOrgID, j.ID)
		w.must(err)
		if r := <-results; !slices.Equal(r.Cancel, []string{l.AttemptID}) {
			t.Errorf("poll: %+v", r)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestPollOffersWhatFits(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		submit := func(cpus int) string {
			j, err := w.Submit(t.Context(), admin, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}}, Class: nimbus.Class{CPUs: cpus}})
			w.must(err)
			return j.ID
		}
		submit(8)
		small := []string{submit(1), submit(1), submit(1)}
		r, err := w.Poll(t.Context(), host, nimbus.Capacity{CPUs: 2, MemoryMiB: 64 << 10, Sandboxes: 10}, 0)
		w.must(err)
		if len(r.Offers) != 2 || r.Offers[0].JobID != small[0] || r.Offers[1].JobID != small[1] {
			t.Errorf("with two CPUs: %+v", r.Offers)
		}
		r, err = w.Poll(t.Context(), host, nimbus.Capacity{CPUs: 64, MemoryMiB: 64 << 10, Sandboxes: 2}, 0)
		w.must(err)
		if len(r.Offers) != 2 { // the same two again: they take all sandboxes
			t.Errorf("with two sandboxes: %+v", r.Offers)
		}
		_, err = w.Poll(t.Context(), nimbus.NewID(nimbus.PrefixHost, time.Now()), plenty, 0)
		w.want(nimbus.CodeNotFound, err)
	})
}

// TestClaimersGetEachJobOnce is invariant 2 under contention.
func TestClaimersGetEachJobOnce(t *testing.T) {
	const jobs, claimers = 400, 8
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		for range jobs {
			w.submit(nimbus.Spec{})
		}
		hosts := make([]string, claimers)
		for i := range hosts {
			hosts[i] = w.host()
		}
		var mu sync.Mutex
		taken := map[string]string{}
		fences := map[int64]bool{}
		done := make(chan struct{})
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		claim := func(host string) error {
			r, err := w.Poll(ctx, host, plenty, time.Second)
			if err != nil {
				return err
			}
			for _, o := range r.Offers {
				if _, err := w.Accept(ctx, host, o.Lease); err != nil {
					return err
				}
				mu.Lock()
				if other, ok := taken[o.JobID]; ok || fences[o.Fence] {
					t.Errorf("job %s was given to %s and %s, fence %d", o.JobID, other, host, o.Fence)
				}
				taken[o.JobID], fences[o.Fence] = host, true
				if len(taken) == jobs {
					close(done)
				}
				mu.Unlock()
				if err := w.Finish(ctx, host, o.Lease, exited(0)); err != nil {
					return err
				}
			}
			return nil
		}
		for _, host := range hosts {
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-ctx.Done():
						t.Errorf("only %d jobs were claimed in time", len(taken))
						return
					default:
					}
					if err := claim(host); err != nil && ctx.Err() == nil {
						t.Errorf("%s: %v", host, err)
					}
				}
			})
		}
		wg.Wait()
		page, err := w.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{States: []nimbus.State{
			nimbus.StatePending, nimbus.StateQueued, nimbus.StateOffered, nimbus.StateAccepted, nimbus.StateRunning}})
		w.must(err)
		if len(page.Jobs) != 0 {
			t.Errorf("%d jobs are left", len(page.Jobs))
		}
	})
}

// TestOrgsAndReposTakeTurns is start-time fair queueing: who has submitted a
// hundred jobs does not keep another one waiting behind them.
func TestReposTakeTurns(t *testing.T) {
	eachEngine(t, scheduler.Config{Window: 4}, func(t *testing.T, w *world) {
		host := w.host()
		in := func(repo string) func(*nimbus.ForgeEvent) {
			return func(ev *nimbus.ForgeEvent) { ev.Job.Repo = repo }
		}
		id := int64(0)
		for range 12 {
			id++
			w.deliver(w.event(id, nimbus.ForgeQueued, in("busy")))
			w.skip(time.Millisecond)
		}
		for range 3 {
			id++
			w.deliver(w.event(id, nimbus.ForgeQueued, in("quiet")))
			w.skip(time.Millisecond)
		}
		var order []string
		for range 15 {
			r, err := w.Poll(t.Context(), host, nimbus.Capacity{CPUs: 1, MemoryMiB: 1024, Sandboxes: 1}, 0)
			w.must(err)
			if len(r.Offers) != 1 {
				t.Fatalf("after %v: %+v", order, r)
			}
			_, err = w.Accept(t.Context(), host, r.Offers[0].Lease)
			w.must(err)
			order = append(order, w.job(r.Offers[0].JobID).GitHub.Repo)
		}
		last := 0
		for i, repo := range order {
			if repo == "quiet" {
				last = i
			}
		}
		if last > 9 { // the window of 4, then by turns
			t.Errorf("the quiet repo waits for the busy one: %v", order)
		}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storetest.Postgres(t), scheduler.Config{})
	host := w.host()
	j := w.submit(nimbus.Spec{})
	for range 600 { // a host that never accepts
		w.skip(time.Minute)
		w.poll(host)
		w.pass(4 * time.Second)
	}
	events, err := w.Events(t.Context(), nimbus.DefaultOrgID, j.ID)
	w.must(err)
	if len(events) > 1000 {
		t.Errorf("%d events", len(events))
	}
	l := w.start(func() string { w.skip(time.Minute); return host }()).Lease
	w.must(w.Finish(t.Context(), host, l, exited(0)))
	events, err = w.Events(t.Context(), nimbus.DefaultOrgID, j.ID)
	w.must(err)
	if last := events[len(events)-1]; last.Kind != string(nimbus.StateFinished) {
		t.Errorf("the last event is %s", fmt.Sprint(last))
	}
}
