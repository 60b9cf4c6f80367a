package microvm

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/pool"
)

const (
	// keepInterval is how often the pool is looked at when nothing happens.
	keepInterval = 5 * time.Second
	// refillPause is how long after a job has come the next machine is made.
	refillPause = 500 * time.Millisecond
	// warmDeadline is how long a machine that waits lives without its agent.
	warmDeadline = 2 * time.Minute
	// idleMiB is what one that waits takes: the monitor's own memory, and what
	// of the guest's had to be written.
	idleMiB = 64
	// firstLead is how long one takes to make, until that is known.
	firstLead = time.Second
	// makeTimeout bounds the making of one, with its snapshot.
	makeTimeout = 5 * time.Minute
	// tellInterval is how often the log says how well the pool does.
	tellInterval = 10 * time.Minute
)

// KeepWarm implements executor.Warmer.
func (e *Executor) KeepWarm(ctx context.Context, free func() nimbus.Capacity, changed func()) error {
	if e.cfg.Warm.Machines < 1 {
		return nil
	}
	if _, err := e.snapshotter(); err != nil {
		return err
	}
	e.warm.mu.Lock()
	e.warm.changed = changed
	e.warm.mu.Unlock()
	defer e.dropAll(context.WithoutCancel(ctx))
	defer e.dropStock(context.WithoutCancel(ctx))
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	told := time.Now()
	for {
		e.renewWarm(ctx)
		e.lookAgain(ctx)
		for ctx.Err() == nil && (e.step(ctx, free()) || e.fillStock(ctx)) {
		}
		if time.Since(told) > tellInterval {
			e.tellWarm(ctx)
			told = time.Now()
		}
		select {
		case <-e.warm.kick:
			// A job begins: the next machine must not take its processor from it.
			select {
			case <-time.After(refillPause):
			case <-ctx.Done():
				return nil
			}
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// step makes or removes one machine, and tells whether there may be more to do.
func (e *Executor) step(ctx context.Context, free nimbus.Capacity) bool {
	now := time.Now()
	w := &e.warm
	w.mu.Lock()
	have := map[string]int{}
	for _, l := range w.ready {
		have[l.class.ID()]++
	}
	classes := w.known(now, have)
	limits := pool.Limits{Machines: e.cfg.Warm.Machines, MemoryMiB: e.cfg.Warm.MemoryMiB, Free: free}
	wanted := pool.Targets(classes, limits)
	// One that is ready is kept while the host is full: jobs end.
	limits.Free = nimbus.Capacity{CPUs: math.MaxInt32, MemoryMiB: math.MaxInt32, Sandboxes: math.MaxInt32}
	bearable := pool.Targets(classes, limits)
	surplus := slices.IndexFunc(w.ready, func(l *loaded) bool { return have[l.class.ID()] > bearable[l.class.ID()] })
	var drop *loaded
	if surplus >= 0 {
		drop = w.ready[surplus]
		w.ready = slices.Delete(w.ready, surplus, surplus+1)
		w.changed()
	}
	w.mu.Unlock()
	if drop != nil {
		e.drop(ctx, drop)
		return true
	}
	if len(have) > 0 && sum(have) >= e.cfg.Warm.Machines {
		return false
	}
	for _, c := range classes {
		if have[c.ID()] < wanted[c.ID()] && e.makeWarm(ctx, c.Class) {
			return true
		}
	}
	return false
}

func sum(counts map[string]int) (n int) {
	for _, count := range counts {
		n += count
	}
	return n
}

// known are the classes of which jobs are expected and that may be tried now,
// the busiest first: one that can't be made takes no other's place. w.mu is held.
func (w *warm) known(now time.Time, have map[string]int) []pool.Class {
	var classes []pool.Class
	for id, d := range w.demand {
		if d.Forgotten(now) {
			delete(w.demand, id)
			continue
		}
		if have[id] == 0 && (d.unfit != "" || d.again.After(now)) {
			continue
		}
		lead := d.lead
		if lead == 0 {
			lead = firstLead
		}
		classes = append(classes, pool.Class{Class: d.class, Rate: d.Rate(now), Lead: lead, IdleMiB: idleMiB})
	}
	slices.SortFunc(classes, pool.Busier)
	return classes
}

// makeWarm makes one machine more, and tells whether it could.
func (e *Executor) makeWarm(ctx context.Context, class nimbus.Class) bool {
	w := &e.warm
	w.mu.Lock()
	d := w.demand[class.ID()]
	w.mu.Unlock()
	if d.unfit != "" || time.Until(d.again) > 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	l, lead, err := e.load(ctx, class)
	unfit := ""
	if isImageFault(err) {
		unfit = e.ingredients(ctx, class)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	d = w.demand[class.ID()]
	d.unfit = unfit
	if unfit != "" {
		w.demand[class.ID()] = d
		e.cfg.Log.WarnContext(ctx, "no machine is made ready until its image changes", "class", class.String(), "error", err)
		return false
	}
	if err != nil {
		d.failures++
		pause := min(time.Minute<<min(d.failures-1, 4), 10*time.Minute)
		d.again = time.Now().Add(pause)
		w.demand[class.ID()] = d
		if ctx.Err() == nil {
			e.cfg.Log.WarnContext(ctx, "make a machine ready", "class", class.String(), "error", err, "again", pause)
		}
		return false
	}
	d.failures, d.lead = 0, lead
	w.demand[class.ID()] = d
	w.ready = append(w.ready, l)
	w.changed()
	return true
}

// lookAgain finds the classes whose image has changed since no machine could be
// made of it.
func (e *Executor) lookAgain(ctx context.Context) {
	w := &e.warm
	w.mu.Lock()
	unfit := maps.Clone(w.demand)
	w.mu.Unlock()
	maps.DeleteFunc(unfit, func(_ string, d demand) bool { return d.unfit == "" })
	for id, was := range unfit {
		if e.ingredients(ctx, was.class) == was.unfit {
			continue
		}
		w.mu.Lock()
		if d, ok := w.demand[id]; ok {
			d.unfit = ""
			w.demand[id] = d
		}
		w.mu.Unlock()
	}
}

// ingredients are the image and the guest that a class' machines are made of, ""
// where that can't be told.
func (e *Executor) ingredients(ctx context.Context, class nimbus.Class) string {
	in, err := e.Inputs(ctx, class)
	if err != nil {
		return ""
	}
	return strings.Join([]string{in.Kernel, in.Root, in.Initrd}, " ")
}

// load makes a machine of the class' snapshot, which it makes first if need be.
func (e *Executor) load(ctx context.Context, class nimbus.Class) (*loaded, time.Duration, error) {
	from, err := e.EnsureSnapshot(ctx, class)
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	r, err := e.recipe(ctx, class)
	if err != nil {
		return nil, 0, err
	}
	s, err := e.newMachine(ctx, r, netslot.ReachOf(class))
	if err != nil {
		return nil, 0, err
	}
	if err = layDisk(s, from); err == nil {
		err = e.restore(ctx, s, r, from, warmDeadline)
	}
	if err == nil {
		err = e.attune(ctx, s)
	}
	if err != nil {
		if err := e.discard(context.WithoutCancel(ctx), s); err != nil {
			e.cfg.Log.WarnContext(ctx, "discard machine", "error", err)
		}
		return nil, 0, err
	}
	return &loaded{sandbox: s, class: class, from: from, since: began}, time.Since(began), nil
}

// renewWarm keeps the machines that wait alive, and lets go of those that ended.
func (e *Executor) renewWarm(ctx context.Context) {
	w := &e.warm
	w.mu.Lock()
	ready := slices.Clone(w.ready)
	w.mu.Unlock()
	for _, l := range ready {
		if err := l.Renew(ctx, warmDeadline); err == nil || ctx.Err() != nil {
			continue
		}
		w.mu.Lock()
		i := slices.Index(w.ready, l)
		if i >= 0 {
			w.ready = slices.Delete(w.ready, i, i+1)
			w.changed()
		}
		w.mu.Unlock()
		if i >= 0 { // else a job has it
			e.cfg.Log.WarnContext(ctx, "a machine that waited has ended", "class", l.class.String(), "after", time.Since(l.since))
			e.drop(ctx, l)
		}
	}
}

// drop removes a machine that waited.
func (e *Executor) drop(ctx context.Context, l *loaded) {
	if err := e.discard(context.WithoutCancel(ctx), l.sandbox); err != nil {
		e.cfg.Log.WarnContext(ctx, "discard machine", "class", l.class.String(), "error", err)
	}
}

// dropAll removes all that wait, when the agent stops.
func (e *Executor) dropAll(ctx context.Context) {
	e.tellWarm(ctx)
	w := &e.warm
	w.mu.Lock()
	ready := w.ready
	w.ready = nil
	w.mu.Unlock()
	for _, l := range ready {
		e.drop(ctx, l)
	}
}

// tellWarm says in the log how many jobs found a machine.
func (e *Executor) tellWarm(ctx context.Context) {
	hits, misses := e.WarmHits()
	if hits+misses > 0 {
		e.cfg.Log.InfoContext(ctx, "warm machines", "found", hits, "of", hits+misses, "waiting", len(e.Warm()))
	}
}

// WarmHits is how many jobs found a machine that waited, and how many did not,
// since the start.
func (e *Executor) WarmHits() (hits, misses int) {
	e.warm.mu.Lock()
	defer e.warm.mu.Unlock()
	return e.warm.hits, e.warm.misses
}
