package microvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/pool"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/snapshot"
)

// WarmConfig bounds the machines that wait for jobs. A machine goes from
// booting to snapshotted once for its class and size, and from there, as often
// as jobs need it, to loaded (paused, with its memory still the snapshot's),
// claimed, and destroyed.
type WarmConfig struct {
	// Machines is how many wait at most; 0 keeps none and saves none.
	Machines int
	// MemoryMiB is what they may take together while they wait.
	MemoryMiB int
}

// warm is what the executor knows of machines that wait, and of what is asked
// for.
type warm struct {
	mu      sync.Mutex
	ready   []*loaded
	demand  map[string]demand // by the class' id
	changed func()            // tells the agent that Warm has changed
	kick    chan struct{}     // holds one when there may be something to do
	hits    int
	misses  int
}

// loaded is a machine that waits, paused, with a connection to its guest.
type loaded struct {
	*sandbox

	class nimbus.Class
	from  snapshot.Snapshot
	since time.Time
}

// demand is what is known of a class.
type demand struct {
	pool.Demand

	class nimbus.Class
	lead  time.Duration // how long the last one took to make
	// failures in a row, and when to try again after them.
	failures int
	again    time.Time
	// unfit is what the class' machine was made of when that could not start for
	// what its image is: until that changes, none is tried.
	unfit string
}

// maxClasses bounds the classes that are watched: what they are called is the
// tenants' choice.
const maxClasses = 256

// Warm implements executor.Warmer.
func (e *Executor) Warm() []nimbus.Class { return e.warmFor(e.Name()) }

// arrive notes that a job of a class came, and takes a machine that waits for
// it.
func (w *warm) arrive(class nimbus.Class, now time.Time) *loaded {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.poke()
	id := class.ID()
	if w.demand == nil {
		w.demand = map[string]demand{}
	}
	d, known := w.demand[id]
	if known || len(w.demand) < maxClasses {
		d.class, d.Demand = class, d.Arrive(now)
		w.demand[id] = d
	}
	i := slices.IndexFunc(w.ready, func(l *loaded) bool { return l.class == class })
	if i < 0 {
		w.misses++
		return nil
	}
	w.hits++
	l := w.ready[i]
	w.ready = slices.Delete(w.ready, i, i+1)
	if w.changed != nil {
		w.changed()
	}
	return l
}

// poke makes the loop look again. It never waits.
func (w *warm) poke() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// takeWarm gives a machine that waits to a sandbox, nil when none of them
// serves.
func (e *Executor) takeWarm(ctx context.Context, r recipe, spec executor.Spec, laps *laps) *sandbox {
	if e.cfg.Warm.Machines < 1 {
		return nil
	}
	l := e.warm.arrive(spec.Class, time.Now())
	if l == nil {
		return nil
	}
	err := e.take(ctx, l, r, spec, laps)
	if err == nil {
		l.origin = nimbus.OriginWarm
		return l.sandbox
	}
	e.cfg.Log.WarnContext(ctx, "a machine that waited is of no use", "sandbox", spec.ID, "error", err)
	if err := e.discard(context.WithoutCancel(ctx), l.sandbox); err != nil {
		e.cfg.Log.WarnContext(ctx, "discard machine", "error", err)
	}
	return nil
}

func (e *Executor) take(ctx context.Context, l *loaded, r recipe, spec executor.Spec, laps *laps) error {
	// Image, guest or monitor may have been replaced while it waited, and the
	// memory that it shares written to.
	now, err := e.inputs(r)
	if err != nil {
		return err
	}
	if err := errors.Join(l.from.Check(now), l.from.Untouched()); err != nil {
		return err
	}
	laps.lap("check")
	if err := l.Renew(ctx, spec.Deadline); err != nil {
		return err
	}
	laps.lap("renew")
	driver, err := e.snapshotter()
	if err != nil {
		return err
	}
	if err := driver.Resume(ctx, l.dir); err != nil { // its guest is connected
		return fmt.Errorf("resume machine: %w", err)
	}
	laps.lap("resume")
	defer laps.lap("hand")
	return e.hand(l.sandbox, spec.ID, spec.Dir)
}

// fitting is the snapshot that a machine can be made of, nil where it has to
// boot.
func (e *Executor) fitting(ctx context.Context, r recipe, spec executor.Spec) *snapshot.Snapshot {
	if _, err := e.snapshotter(); err != nil {
		return nil
	}
	in, err := e.inputs(r)
	var from snapshot.Snapshot
	if err == nil {
		from, err = e.Snapshots().Open(in)
	}
	if err == nil {
		return &from
	}
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		e.cfg.Log.InfoContext(ctx, "boot instead", "sandbox", spec.ID, "reason", err)
	}
	return nil
}

// wakeOne makes a machine of a snapshot and lets it run, and tells whether it
// could.
func (e *Executor) wakeOne(ctx context.Context, s *sandbox, r recipe, from snapshot.Snapshot, deadline time.Duration) bool {
	err := e.restore(ctx, s, r, from, deadline)
	if err == nil {
		if err = e.wake(ctx, s); err != nil {
			err = errors.Join(err, s.End(context.WithoutCancel(ctx)))
		}
	}
	if err != nil {
		e.cfg.Log.WarnContext(ctx, "boot instead", "sandbox", s.id, "error", err)
		return false
	}
	s.origin = nimbus.OriginRestored
	return true
}
