package microvm

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
)

// A network takes longer to make than a machine of a snapshot does. So a few
// are made before there is a machine for them, under the name that the machine
// will have. Networks of the profile "names" are none of them: each has names
// of its own.

// stockOf is how many networks of a profile lie ready.
const stockOf = 2

// stock is the networks that lie ready.
type stock struct {
	mu    sync.Mutex
	ready map[nimbus.NetworkProfile][]stocked
	seen  map[nimbus.NetworkProfile]bool // machines asked for it
}

type stocked struct {
	machine string
	slot    netslot.Slot
}

// take is a network that lies ready for a reach; false for none.
func (s *stock) take(r netslot.Reach) (stocked, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Profile == nimbus.NetworkNames {
		return stocked{}, false
	}
	if s.seen == nil {
		s.seen = map[nimbus.NetworkProfile]bool{}
	}
	s.seen[r.Profile] = true
	have := s.ready[r.Profile]
	if len(have) == 0 {
		return stocked{}, false
	}
	s.ready[r.Profile] = have[1:]
	return have[0], true
}

// lacking is a profile of which there should be one more.
func (s *stock) lacking() (nimbus.NetworkProfile, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range nimbus.NetworkProfiles() {
		if s.seen[p] && len(s.ready[p]) < stockOf {
			return p, true
		}
	}
	return "", false
}

func (s *stock) put(p nimbus.NetworkProfile, made stocked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready == nil {
		s.ready = map[nimbus.NetworkProfile][]stocked{}
	}
	s.ready[p] = append(s.ready[p], made)
}

// drain is all that lies ready, which it then does no more.
func (s *stock) drain() (all []stocked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, made := range s.ready {
		all = append(all, made...)
	}
	s.ready, s.seen = nil, nil
	return all
}

// takeStocked is a network that lies ready and is still there. What was taken
// down meanwhile, by whoever tidied the host, is no reason to fail a job.
func (e *Executor) takeStocked(ctx context.Context, r netslot.Reach) (stocked, bool) {
	for {
		made, ok := e.stock.take(r)
		if !ok {
			return stocked{}, false
		}
		err := e.slots.Standing(made.machine)
		if err == nil {
			return made, true
		}
		e.cfg.Log.WarnContext(ctx, "a network that lay ready is gone", "machine", made.machine, "error", err)
		e.dropStocked(context.WithoutCancel(ctx), made)
		e.warm.poke()
	}
}

// network is a network for a machine, with the machine's name: one that lies
// ready, or a new one. The machine is this process' own from now on.
func (e *Executor) network(ctx context.Context, r netslot.Reach) (machine string, slot netslot.Slot, err error) {
	if made, ok := e.takeStocked(ctx, r); ok {
		return made.machine, made.slot, nil
	}
	machine = nimbus.NewID(prefixMachine, time.Now())
	e.owned.Add(machine)
	if slot, err = e.slots.Create(ctx, machine, r); err != nil {
		e.owned.Remove(machine)
	}
	return machine, slot, err
}

// sandboxNetwork is the network of a sandbox whose image is held under its own
// name, and the name of its machine: another one's, where the network lay ready.
func (e *Executor) sandboxNetwork(ctx context.Context, spec executor.Spec) (machine string, slot netslot.Slot, err error) {
	r := netslot.ReachOf(spec.Class)
	made, ok := e.takeStocked(ctx, r)
	if !ok {
		slot, err = e.slots.Create(ctx, spec.ID, r)
		return spec.ID, slot, err
	}
	e.warm.poke() // there is one less
	if err := e.claimNetwork(ctx, made.machine, spec); err != nil {
		err = errors.Join(err, e.remove(context.WithoutCancel(ctx), made.machine))
		e.owned.Remove(made.machine)
		return "", netslot.Slot{}, err
	}
	e.owned.Remove(made.machine)
	return made.machine, made.slot, nil
}

// claimNetwork makes a network that lay ready the sandbox' own, and has its
// image held under the machine's name. A crash leaves what the sweep finds.
func (e *Executor) claimNetwork(ctx context.Context, machine string, spec executor.Spec) error {
	if err := e.claims.Note(machine, spec.ID); err != nil {
		return err
	}
	if _, err := e.cfg.Images.Get(ctx, spec.Class.Image, e.cgroup(machine), func(string) {}); err != nil {
		return err
	}
	return e.cfg.Images.Release(e.cgroup(spec.ID))
}

// fillStock makes one network more, and tells whether there may be more to do.
func (e *Executor) fillStock(ctx context.Context) bool {
	p, ok := e.stock.lacking()
	if !ok {
		return false
	}
	machine := nimbus.NewID(prefixMachine, time.Now())
	e.owned.Add(machine)
	slot, err := e.slots.Create(ctx, machine, netslot.Reach{Profile: p})
	if err != nil {
		e.owned.Remove(machine)
		if ctx.Err() == nil {
			e.cfg.Log.WarnContext(ctx, "make a network ready", "profile", p, "error", err)
		}
		return false
	}
	e.stock.put(p, stocked{machine, slot})
	return true
}

// dropStock removes the networks that lie ready.
func (e *Executor) dropStock(ctx context.Context) {
	for _, made := range e.stock.drain() {
		e.dropStocked(ctx, made)
	}
}

func (e *Executor) dropStocked(ctx context.Context, made stocked) {
	if err := e.remove(ctx, made.machine); err != nil {
		e.cfg.Log.WarnContext(ctx, "remove a network", "error", err)
	}
	e.owned.Remove(made.machine)
}
