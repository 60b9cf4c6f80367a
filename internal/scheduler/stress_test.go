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
)

// TestManyHandsAtOnce lets hosts, users, GitHub and the sweeps work at the same
// jobs at the same time. Whoever loses a race gets one of the documented codes,
// nobody gets an internal error, and every job ends.
func TestManyHandsAtOnce(t *testing.T) {
	const jobs, hosts = 20, 4
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		h := &hands{world: w, ctx: ctx, t: t}
		var native []string
		for i := range jobs {
			native = append(native, w.submit(nimbus.Spec{Repeatable: true}).ID)
			h.queued = append(h.queued, w.event(int64(1000+i), nimbus.ForgeQueued))
		}
		var workers, stirrers sync.WaitGroup
		for range hosts {
			host := w.host()
			workers.Go(func() { h.work(host) })
		}
		stirring, stop := context.WithCancel(ctx)
		stirrers.Go(func() { h.stir(stirring, func() error { return scheduler.Sweep(w.Service, ctx) }) })
		stirrers.Go(func() { h.stir(stirring, func() error { return scheduler.ReviewAll(w.Service, ctx) }) })
		stirrers.Go(func() {
			for _, ev := range h.queued {
				h.tell(*ev)
			}
		})
		stirrers.Go(func() {
			for i, id := range native {
				if i%3 == 0 {
					_, err := w.Cancel(ctx, admin, nimbus.DefaultOrgID, id)
					h.ok(err)
				}
			}
		})
		workers.Wait()
		stop()
		stirrers.Wait()
	})
}

// hands are the hosts and GitHub of the stress test.
type hands struct {
	*world
	ctx    context.Context
	t      *testing.T
	queued []*nimbus.ForgeEvent

	mu       sync.Mutex
	told     int
	finished int
}

// ok takes no error but those that a loser of a race may get.
func (h *hands) ok(err error, losing ...nimbus.Code) bool {
	if err != nil && !slices.Contains(losing, nimbus.ErrorCode(err)) {
		h.t.Errorf("%s: %v", nimbus.ErrorCode(err), err)
	}
	return err == nil
}

func (h *hands) tell(ev nimbus.ForgeEvent) {
	h.mu.Lock()
	h.told++
	id := fmt.Sprint("stress-", h.told)
	h.mu.Unlock()
	_, err := h.ProcessDelivery(h.ctx, nimbus.Delivery{ID: id}, &ev)
	h.ok(err)
}

// stir repeats something until ctx ends.
func (h *hands) stir(ctx context.Context, do func() error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.ok(do())
		}
	}
}

// work is a host that takes jobs until all have ended.
func (h *hands) work(host string) {
	for h.ctx.Err() == nil {
		r, err := h.Poll(h.ctx, host, plenty, 200*time.Millisecond)
		if !h.ok(err) {
			return
		}
		var leases []nimbus.Lease
		for _, o := range r.Offers {
			a, err := h.Accept(h.ctx, host, o.Lease)
			if h.ok(err, nimbus.CodeFenced) {
				leases = append(leases, o.Lease)
				h.execute(host, a)
			}
		}
		_, err = h.Heartbeat(h.ctx, host, leases)
		h.ok(err)
		page, err := h.Jobs(h.ctx, nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 1, States: slices.DeleteFunc(nimbus.States(),
			func(s nimbus.State) bool { return s == nimbus.StateFinished })})
		if h.ok(err) && len(page.Jobs) == 0 {
			return
		}
	}
	h.t.Error("jobs are left that did not end in time")
}

// execute runs an assignment; a GitHub runner takes the job that GitHub gives
// out next, which is rarely the one that it was made for.
func (h *hands) execute(host string, a nimbus.Assignment) {
	lost := []nimbus.Code{nimbus.CodeFenced, nimbus.CodeConflict}
	if a.Source == nimbus.SourceNative {
		h.ok(h.ReportPhase(h.ctx, host, a.Lease, nimbus.PhaseStarted, nimbus.Start{}), lost...)
		h.ok(h.Finish(h.ctx, host, a.Lease, exited(0)), lost...)
		return
	}
	r, _, err := h.CreateRunner(h.ctx, host, a.Lease)
	if !h.ok(err, lost...) {
		h.ok(h.Finish(h.ctx, host, a.Lease, nimbus.Outcome{Result: nimbus.ResultCancelled, BeforeStart: true}), lost...)
		return
	}
	h.mu.Lock()
	var ev nimbus.ForgeEvent
	if h.finished < len(h.queued) {
		ev = *h.queued[len(h.queued)-1-h.finished]
		h.finished++
	}
	h.mu.Unlock()
	if ev.Job.JobID != 0 {
		ev.RunnerName, ev.RunnerID, ev.Demand = r.Name, r.ID, false
		ev.Status = nimbus.ForgeInProgress
		h.tell(ev)
		ev.Status, ev.Conclusion = nimbus.ForgeCompleted, "success"
		h.tell(ev)
	}
	h.ok(h.Finish(h.ctx, host, a.Lease, exited(0)), lost...)
}
