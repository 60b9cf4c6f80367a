package scheduler_test

import (
	"context"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// warmFor is plenty, and a sandbox ready for each of those jobs.
func warmFor(jobs ...nimbus.Job) nimbus.Capacity {
	c := plenty
	for _, j := range jobs {
		c.Warm = append(c.Warm, j.Class.ID())
	}
	return c
}

func (w *world) pollWith(host string, free nimbus.Capacity) []nimbus.Offer {
	w.t.Helper()
	r, err := w.Poll(w.t.Context(), host, free, 0)
	w.must(err)
	return r.Offers
}

// drain ends the job that was submitted to learn its class.
func (w *world) drain(host string) nimbus.Job {
	w.t.Helper()
	j := w.submit(nimbus.Spec{})
	w.must(w.Finish(w.t.Context(), host, w.start(host).Lease, exited(0)))
	return j
}

func TestJobIsKeptForTheWarmHost(t *testing.T) {
	eachEngine(t, scheduler.Config{AffinityWait: time.Minute}, func(t *testing.T, w *world) {
		cold, warm := w.host(), w.host()
		like := w.drain(cold)
		w.pollWith(warm, warmFor(like))
		j := w.submit(nimbus.Spec{})
		if got := w.pollWith(cold, plenty); len(got) > 0 {
			t.Fatalf("the cold host is offered %v", got)
		}
		if got := w.pollWith(warm, warmFor(like)); len(got) != 1 || got[0].JobID != j.ID {
			t.Fatalf("the warm host is offered %v", got)
		}
		// Its one sandbox is taken: the next job is anybody's.
		w.submit(nimbus.Spec{})
		if got := w.pollWith(cold, plenty); len(got) != 1 {
			t.Fatalf("the cold host is offered %v", got)
		}
	})
}

func TestJobIsNotKeptForLong(t *testing.T) {
	eachEngine(t, scheduler.Config{AffinityWait: 10 * time.Second}, func(t *testing.T, w *world) {
		cold, warm := w.host(), w.host()
		like := w.drain(cold)
		w.pollWith(warm, warmFor(like))
		w.submit(nimbus.Spec{})
		if got := w.pollWith(cold, plenty); len(got) > 0 {
			t.Fatalf("the cold host is offered %v at once", got)
		}
		w.skip(11 * time.Second)
		if got := w.pollWith(cold, plenty); len(got) != 1 {
			t.Fatalf("after the wait the cold host is offered %v", got)
		}
	})
}

func TestJobIsNotKeptForHostsThatAreGone(t *testing.T) {
	eachEngine(t, scheduler.Config{AffinityWait: time.Hour}, func(t *testing.T, w *world) {
		cold, warm := w.host(), w.host()
		w.pollWith(warm, warmFor(w.drain(cold)))
		w.skip(nimbus.LeaseDuration + time.Second)
		w.submit(nimbus.Spec{})
		if got := w.pollWith(cold, plenty); len(got) != 1 {
			t.Fatalf("the cold host is offered %v", got)
		}
	})
}

// TestKeptJobWakesWhoWaits: nothing but time ends the wait, and a host that
// polls hears of it then and not at its next look into the books.
func TestKeptJobWakesWhoWaits(t *testing.T) {
	eachEngine(t, scheduler.Config{AffinityWait: 50 * time.Millisecond}, func(t *testing.T, w *world) {
		cold, warm := w.host(), w.host()
		w.pollWith(warm, warmFor(w.drain(cold)))
		began := time.Now()
		w.submit(nimbus.Spec{})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := w.Poll(ctx, cold, plenty, 10*time.Second)
		w.must(err)
		if took := time.Since(began); len(r.Offers) != 1 || took < 50*time.Millisecond {
			t.Fatalf("after %v the cold host is offered %v", took, r.Offers)
		}
	})
}

// TestReplicasKnowWhoIsWarm: the warm host talks to one replica, the cold one
// to another.
func TestReplicasKnowWhoIsWarm(t *testing.T) {
	eachEngine(t, scheduler.Config{AffinityWait: time.Minute}, func(t *testing.T, w *world) {
		cold, warm := w.host(), w.host()
		w.skip(nimbus.HeartbeatInterval)
		like := w.drain(cold)
		w.pollWith(warm, warmFor(like, like))
		other := w.replica(scheduler.Config{AffinityWait: time.Minute})
		w.submit(nimbus.Spec{})
		if got := other.pollWith(cold, plenty); len(got) > 0 {
			t.Fatalf("the cold host is offered %v", got)
		}
		hosts, err := other.Hosts(t.Context())
		w.must(err)
		for _, h := range hosts {
			if h.ID == warm && (h.Free.CPUs != plenty.CPUs || len(h.Free.Warm) != 2) {
				t.Errorf("the warm host has %+v", h.Free)
			}
		}
		if got := w.pollWith(warm, warmFor(like, like)); len(got) != 1 {
			t.Fatalf("the warm host is offered %v", got)
		}
	})
}
