package chaos

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/test/faultproxy"
)

// fault breaks something for a while. It returns when that is mended, or soon
// after ctx ends.
type fault struct {
	name   string
	weight int
	long   bool // it outlasts leases
	do     func(ctx context.Context, r *rand.Rand)
}

// pastLease is a pause after which a host's leases are somebody else's.
const pastLease = nimbus.LeaseDuration + 4*time.Second

// faults are all that can go wrong. Each takes its chances from its own source,
// so that a seed gives the same ones.
func (w *world) faults() []fault {
	return []fault{
		{"kill a replica", 4, false, func(ctx context.Context, r *rand.Rand) {
			one := w.replicas[r.IntN(replicas)]
			one.kill()
			rest(ctx, between(r, 200*time.Millisecond, 3*time.Second))
			one.start()
		}},
		{"pause a replica", 2, false, func(ctx context.Context, r *rand.Rand) {
			one := w.replicas[r.IntN(replicas)]
			one.pause(true)
			defer one.pause(false)
			rest(ctx, between(r, time.Second, 10*time.Second)) // a leadership lasts 6 s
		}},
		{"kill an agent", 5, false, func(ctx context.Context, r *rand.Rand) {
			one := w.machines[r.IntN(machines)]
			one.KillAgent()
			rest(ctx, between(r, 100*time.Millisecond, 4*time.Second))
			one.Boot(context.WithoutCancel(ctx))
		}},
		{"take the power of a host", 3, false, func(ctx context.Context, r *rand.Rand) {
			one := w.machines[r.IntN(machines)]
			one.LosePower()
			rest(ctx, between(r, 500*time.Millisecond, 5*time.Second))
			one.Boot(context.WithoutCancel(ctx))
		}},
		{"pause a host", 2, false, func(ctx context.Context, r *rand.Rand) {
			one := w.machines[r.IntN(machines)]
			one.Pause()
			defer one.Resume()
			rest(ctx, between(r, time.Second, 12*time.Second))
		}},
		{"pause a host past its leases", 3, true, w.pausePast},
		{"deliver a host's words past its leases", 2, true, w.endPast},
		{"clone a host's disk", 6, false, w.cloneDisk},
		{"restart PostgreSQL", 2, false, func(ctx context.Context, r *rand.Rand) {
			w.restarting.Lock()
			defer w.restarting.Unlock()
			w.db.stop([]syscall.Signal{syscall.SIGINT, syscall.SIGQUIT}[r.IntN(2)])
			rest(ctx, between(r, 0, 2*time.Second))
			w.db.start()
		}},
		{"restart Redis", 2, false, func(ctx context.Context, r *rand.Rand) {
			w.restarting.Lock()
			defer w.restarting.Unlock()
			w.redis.Stop()
			rest(ctx, between(r, 0, 4*time.Second))
			w.redis.Start()
		}},
		{"cut connections", 6, false, func(_ context.Context, r *rand.Rand) { w.way(r).Cut() }},
		{"refuse connections", 3, false, func(ctx context.Context, r *rand.Rand) {
			way := w.way(r)
			way.Refuse(true)
			defer way.Refuse(false)
			rest(ctx, between(r, 200*time.Millisecond, 2*time.Second))
		}},
		{"delay connections", 4, false, func(ctx context.Context, r *rand.Rand) {
			way := w.way(r)
			way.Delay(between(r, 5*time.Millisecond, 150*time.Millisecond))
			defer way.Delay(0)
			rest(ctx, between(r, time.Second, 4*time.Second))
		}},
		{"hold connections", 3, false, func(ctx context.Context, r *rand.Rand) {
			way := w.way(r)
			way.Hold()
			defer way.Release()
			rest(ctx, between(r, 200*time.Millisecond, 3*time.Second))
		}},
		{"reorder connections", 4, false, func(ctx context.Context, r *rand.Rand) {
			w.way(r).Reorder(ctx, between(r, 50*time.Millisecond, time.Second), between(r, 50*time.Millisecond, 3*time.Second))
		}},
	}
}

// way is one of the three networks.
func (w *world) way(r *rand.Rand) *faultproxy.Proxy {
	return []*faultproxy.Proxy{w.toDB, w.toRedis, w.front}[r.IntN(3)]
}

func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// rage breaks things until ctx ends, and then waits until all is mended. It
// returns how often what was broken. What goes past leases comes first, and later
// no more: it takes long, and all is about it.
func (w *world) rage(ctx context.Context, span time.Duration, seed uint64) map[string]int {
	r := rand.New(rand.NewPCG(seed, 1))
	all := w.faults()
	total := 0
	for _, f := range all {
		total += f.weight
	}
	done := map[string]int{}
	var going sync.WaitGroup
	begin := func(f fault) {
		done[f.name]++
		own := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		going.Go(func() { f.do(ctx, own) })
	}
	var at time.Duration // by the plan, so that a seed gives the same
	pause := func(least, most time.Duration) {
		d := between(r, least, most)
		at += d
		rest(ctx, d)
	}
	for range 3 {
		for _, f := range slices.DeleteFunc(slices.Clone(all), func(f fault) bool { return !f.long }) {
			pause(time.Second, 3*time.Second) // so that hosts have something
			begin(f)
		}
	}
	first := r.Perm(len(all)) // each at least once
	for ctx.Err() == nil {
		i := 0
		if len(first) > 0 {
			i, first = first[0], first[1:]
		} else {
			for n := r.IntN(total); n >= all[i].weight; i++ {
				n -= all[i].weight
			}
		}
		if !all[i].long || at < span/3 {
			begin(all[i])
		}
		pause(100*time.Millisecond, 1200*time.Millisecond)
		for _, one := range w.replicas {
			one.revive()
		}
	}
	going.Wait()
	w.mend()
	return done
}

// mend makes all well that a fault may have left broken.
func (w *world) mend() {
	for _, p := range []*faultproxy.Proxy{w.toDB, w.toRedis, w.front} {
		p.Refuse(false)
		p.Delay(0)
		p.Release()
	}
	for _, m := range w.machines {
		m.Resume()
		m.Boot(context.WithoutCancel(w.t.Context()))
	}
	for _, r := range w.replicas {
		r.pause(false)
		r.start()
		r.revive()
	}
}
