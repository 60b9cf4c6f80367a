package pool

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// keepInterval is how often a keeper looks when nothing happens.
	keepInterval = 5 * time.Second
	// refillPause is how long after a job has come the next sandbox is made: that
	// must not take the job's processor.
	refillPause = 500 * time.Millisecond
	// firstLead is how long one takes to make, until that is known.
	firstLead = time.Second
	// maxClasses bounds the classes that are watched: what they are called is the
	// tenants' choice.
	maxClasses = 256
	// firstPause and mostPauses are for how long a class is left alone whose
	// sandbox could not be made: twice as long each time.
	firstPause = time.Minute
	mostPauses = 4
)

// Maker makes the sandboxes that a Keeper keeps.
type Maker[T comparable] interface {
	// Make makes one of a class.
	Make(ctx context.Context, class nimbus.Class) (T, error)
	// Renew keeps one alive, and fails when it has ended.
	Renew(ctx context.Context, waiting T) error
	// Drop removes one. What it can't remove is found by others.
	Drop(ctx context.Context, waiting T)
}

// Bounds are those of a Keeper.
type Bounds struct {
	Sandboxes int // that wait at most; none where it is 0
	MemoryMiB int // that they may take together
	IdleMiB   int // that one takes while it waits
}

// Keeper keeps sandboxes ready of the classes that jobs lately had. Take and
// Warm may be called at any time, Keep by one goroutine.
type Keeper[T comparable] struct {
	maker  Maker[T]
	bounds Bounds
	log    *slog.Logger
	kick   chan struct{} // holds one when there may be something to do

	mu      sync.Mutex
	waiting []waiting[T]
	known   map[string]known // by the class' id
	changed func()
}

type waiting[T comparable] struct {
	sandbox T
	class   nimbus.Class
}

// known is what is known of a class.
type known struct {
	Demand

	class    nimbus.Class
	lead     time.Duration // how long the last one took to make
	failures int           // in a row
	again    time.Time     // when to try again after them
}

// NewKeeper returns a keeper that has nothing.
func NewKeeper[T comparable](m Maker[T], b Bounds, log *slog.Logger) *Keeper[T] {
	return &Keeper[T]{maker: m, bounds: b, log: log, kick: make(chan struct{}, 1), known: map[string]known{}}
}

// Take notes that a job of a class came, and gives it a sandbox that waits.
func (k *Keeper[T]) Take(class nimbus.Class) (sandbox T, ok bool) {
	if k.bounds.Sandboxes < 1 {
		return sandbox, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.poke()
	id, now := class.ID(), time.Now()
	d, seen := k.known[id]
	if seen || len(k.known) < maxClasses {
		d.class, d.Demand = class, d.Arrive(now)
		k.known[id] = d
	}
	i := slices.IndexFunc(k.waiting, func(w waiting[T]) bool { return w.class == class })
	if i < 0 {
		return sandbox, false
	}
	sandbox = k.waiting[i].sandbox
	k.leave(i)
	return sandbox, true
}

// leave takes one off the list. k.mu is held.
func (k *Keeper[T]) leave(i int) {
	k.waiting = slices.Delete(k.waiting, i, i+1)
	k.tell()
}

func (k *Keeper[T]) tell() {
	if k.changed != nil {
		k.changed()
	}
}

// Warm is the class of each that waits.
func (k *Keeper[T]) Warm() []nimbus.Class {
	k.mu.Lock()
	defer k.mu.Unlock()
	classes := make([]nimbus.Class, len(k.waiting))
	for i, w := range k.waiting {
		classes[i] = w.class
	}
	return classes
}

// poke has Keep look again. It never waits.
func (k *Keeper[T]) poke() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// Keep makes sandboxes ready until ctx ends, and removes them then. Free is what
// jobs could take now; changed is called, and does not wait, when Warm answers
// something else.
func (k *Keeper[T]) Keep(ctx context.Context, free func() nimbus.Capacity, changed func()) {
	if k.bounds.Sandboxes < 1 {
		return
	}
	k.mu.Lock()
	k.changed = changed
	k.mu.Unlock()
	defer k.dropAll(context.WithoutCancel(ctx))
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	for {
		k.renewAll(ctx)
		for ctx.Err() == nil && k.step(ctx, free()) {
		}
		select {
		case <-k.kick:
			select {
			case <-time.After(refillPause):
			case <-ctx.Done():
				return
			}
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// step makes or removes one, and tells whether there may be more to do.
func (k *Keeper[T]) step(ctx context.Context, free nimbus.Capacity) bool {
	now := time.Now()
	limits := Limits{Machines: k.bounds.Sandboxes, MemoryMiB: k.bounds.MemoryMiB, Free: free}
	k.mu.Lock()
	have := map[string]int{}
	for _, w := range k.waiting {
		have[w.class.ID()]++
	}
	classes := k.expected(now, have)
	wanted := Targets(classes, limits)
	// One that is ready is kept while the host is full: jobs end.
	limits.Free = nimbus.Capacity{CPUs: math.MaxInt32, MemoryMiB: math.MaxInt32, Sandboxes: math.MaxInt32}
	bearable := Targets(classes, limits)
	all := len(k.waiting)
	surplus := slices.IndexFunc(k.waiting, func(w waiting[T]) bool { return have[w.class.ID()] > bearable[w.class.ID()] })
	if surplus >= 0 {
		drop := k.waiting[surplus].sandbox
		k.leave(surplus)
		k.mu.Unlock()
		k.maker.Drop(ctx, drop)
		return true
	}
	k.mu.Unlock()
	if all >= k.bounds.Sandboxes {
		return false
	}
	for _, c := range classes {
		if have[c.ID()] < wanted[c.ID()] && k.makeOne(ctx, c.Class) {
			return true
		}
	}
	return false
}

// expected are the classes of which jobs are expected, the busiest first. One that
// is left alone for now takes no other's place. k.mu is held.
func (k *Keeper[T]) expected(now time.Time, have map[string]int) []Class {
	var classes []Class
	for id, d := range k.known {
		if d.Forgotten(now) {
			delete(k.known, id)
			continue
		}
		if have[id] == 0 && d.again.After(now) {
			continue
		}
		lead := d.lead
		if lead == 0 {
			lead = firstLead
		}
		classes = append(classes, Class{Class: d.class, Rate: d.Rate(now), Lead: lead, IdleMiB: k.bounds.IdleMiB})
	}
	slices.SortFunc(classes, Busier)
	return classes
}

// makeOne makes one more, and tells whether it could.
func (k *Keeper[T]) makeOne(ctx context.Context, class nimbus.Class) bool {
	id := class.ID()
	k.mu.Lock()
	wait := time.Until(k.known[id].again) > 0
	k.mu.Unlock()
	if wait {
		return false
	}
	began := time.Now()
	made, err := k.maker.Make(ctx, class)
	k.mu.Lock()
	defer k.mu.Unlock()
	d, ok := k.known[id]
	if err != nil {
		pause := firstPause << min(d.failures, mostPauses)
		if ok {
			d.failures, d.again = d.failures+1, time.Now().Add(pause)
			k.known[id] = d
		}
		if ctx.Err() == nil {
			k.log.WarnContext(ctx, "make a sandbox ready", "class", class.String(), "error", err, "again", pause)
		}
		return false
	}
	if ok {
		d.failures, d.lead = 0, time.Since(began)
		k.known[id] = d
	}
	k.waiting = append(k.waiting, waiting[T]{made, class})
	k.tell()
	return true
}

// renewAll keeps those that wait alive, and lets go of those that ended.
func (k *Keeper[T]) renewAll(ctx context.Context) {
	k.mu.Lock()
	all := slices.Clone(k.waiting)
	k.mu.Unlock()
	for _, w := range all {
		err := k.maker.Renew(ctx, w.sandbox)
		if err == nil || ctx.Err() != nil {
			continue
		}
		k.mu.Lock()
		i := slices.Index(k.waiting, w)
		if i >= 0 {
			k.leave(i)
		}
		k.mu.Unlock()
		if i >= 0 { // else a job has it
			k.log.WarnContext(ctx, "a sandbox that waited has ended", "class", w.class.String(), "error", err)
			k.maker.Drop(ctx, w.sandbox)
		}
	}
}

func (k *Keeper[T]) dropAll(ctx context.Context) {
	k.mu.Lock()
	all := k.waiting
	k.waiting = nil
	k.mu.Unlock()
	for _, w := range all {
		k.maker.Drop(ctx, w.sandbox)
	}
}
