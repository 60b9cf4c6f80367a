package chaos

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

const (
	// endWithin is how long an end is waited for that is to be held back.
	endWithin = 4 * time.Second
	// endLeast is how far it is away at least.
	endLeast = 200 * time.Millisecond
	// successorWithin is how long a job of a paused host is looked for at others.
	successorWithin = 5 * time.Second
	// strayTimeout is how long a stray may try to be heard.
	strayTimeout = 5 * time.Second
)

// strays are reports of leases that are over, or that another host has.
type strays struct {
	mu    sync.Mutex
	Late  int      // ends that arrived after their leases
	Sent  int      // leases that were pretended
	Taken []string // what the control plane took of those
}

func (s *strays) late(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Late += n
}

// pretend has a machine speak of an attempt that is not its own.
func (w *world) pretend(by *simhost.Machine, what string, l *nimbusv1.Lease, end *nimbusv1.Outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), strayTimeout)
	defer cancel()
	taken := by.Pretend(ctx, l, end)
	w.strays.mu.Lock()
	defer w.strays.mu.Unlock()
	w.strays.Sent++
	if len(taken) > 0 {
		w.strays.Taken = append(w.strays.Taken, fmt.Sprintf("%s, which is %s, on %s with fence %d: %q", by.ID, what, l.GetAttemptId(), l.GetFence(), taken))
	}
}

// pausePast pauses a host past its leases. It comes back to jobs that others
// have by now: it speaks of its own attempts as every agent does, and then of
// the jobs' new attempts with its old fencing numbers, as one would that knew
// jobs but no attempts. That host's own number is not enough either.
func (w *world) pausePast(ctx context.Context, r *rand.Rand) {
	one := w.busy(r)
	one.Pause()
	had := w.running(one)
	rest(context.WithoutCancel(ctx), between(r, pastLease, pastLease+5*time.Second))
	one.Resume()
	w.haunt(one, had)
}

// haunt speaks of jobs that others run by now.
func (w *world) haunt(one *simhost.Machine, had []simhost.Execution) {
	var all sync.WaitGroup
	for _, before := range had {
		all.Go(func() {
			now, ok := w.successor(before)
			if !ok {
				return // it is nobody's, or was not given on
			}
			old := &nimbusv1.Lease{AttemptId: now.AttemptID, Fence: before.Fence}
			all.Go(func() { w.pretend(one, "a host that had it before", old, simhost.Done()) })
			w.pretend(w.machine(now.HostID), "the host that has it, with the number of before", old, simhost.Done())
		})
	}
	all.Wait()
}

// endPast holds back what a host has sent for longer than its leases last, with
// the end of a job in it where there is one; the host stands still meanwhile.
// Its replica may be gone by then: a load balancer that understands HTTP sends
// the request to another.
func (w *world) endPast(ctx context.Context, r *rand.Rand) {
	one := w.ending(r)
	held := w.front.DetachSome(one.Speaks)
	var ended []simhost.Execution
	for until := time.Now().Add(endWithin); len(ended) == 0 && time.Now().Before(until); rest(ctx, 20*time.Millisecond) {
		ended = w.on(one, func(e simhost.Execution) bool { return e.End == simhost.EndDone && !e.Acknowledged })
	}
	rest(ctx, 50*time.Millisecond) // in which the request is written
	one.Pause()
	had := w.running(one)
	held.Cut()
	rest(context.WithoutCancel(ctx), between(r, pastLease, pastLease+5*time.Second))
	held.Arrive()
	one.Resume()
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), strayTimeout)
	defer cancel()
	for _, e := range ended {
		one.EndLate(late, lease(e), simhost.Done())
	}
	w.strays.late(len(ended))
	w.haunt(one, append(had, ended...))
}

// cloneDisk lets a host speak that was set up from the disk of another, while
// that one runs what the disk tells of: on the clone its processes are not there.
func (w *world) cloneDisk(_ context.Context, r *rand.Rand) {
	one := w.busy(r)
	clone := w.machines[r.IntN(machines)]
	if clone == one {
		return
	}
	for _, e := range w.running(one) {
		w.pretend(clone, "a clone of the host that has it", lease(e), simhost.Crashed())
	}
}

func lease(e simhost.Execution) *nimbusv1.Lease {
	return &nimbusv1.Lease{AttemptId: e.AttemptID, Fence: e.Fence}
}

// on is what a machine has seen of some executions.
func (w *world) on(m *simhost.Machine, are func(simhost.Execution) bool) []simhost.Execution {
	return slices.DeleteFunc(w.records.Executions(), func(e simhost.Execution) bool { return e.HostID != m.ID || !are(e) })
}

// running is what has begun on a machine and not ended.
func (w *world) running(m *simhost.Machine) []simhost.Execution {
	return w.on(m, func(e simhost.Execution) bool { return e.End == simhost.EndNone })
}

// busy is the machine that runs most, or one of those.
func (w *world) busy(r *rand.Rand) *simhost.Machine {
	all := slices.Clone(w.machines)
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return slices.MaxFunc(all, func(a, b *simhost.Machine) int { return cmp.Compare(len(w.running(a)), len(w.running(b))) })
}

// ending is a machine on which a job comes to its end soon.
func (w *world) ending(r *rand.Rand) *simhost.Machine {
	for _, e := range w.records.Executions() {
		if e.End != simhost.EndNone || len(e.Live) != 1 {
			continue
		}
		if left := e.Work - time.Since(e.Live[0].From); left > endLeast && left < endWithin {
			return w.machine(e.HostID)
		}
	}
	return w.busy(r)
}

func (w *world) machine(hostID string) *simhost.Machine {
	return w.machines[slices.IndexFunc(w.machines, func(m *simhost.Machine) bool { return m.ID == hostID })]
}

// successor is the newest execution of the same job after another, once there
// is one.
func (w *world) successor(of simhost.Execution) (simhost.Execution, bool) {
	for until := time.Now().Add(successorWithin); time.Now().Before(until); rest(w.t.Context(), 50*time.Millisecond) {
		later := slices.DeleteFunc(w.records.Executions(), func(e simhost.Execution) bool { return e.JobID != of.JobID || e.Fence <= of.Fence })
		if len(later) > 0 {
			return slices.MaxFunc(later, func(a, b simhost.Execution) int { return cmp.Compare(a.Fence, b.Fence) }), true
		}
	}
	return simhost.Execution{}, false
}
