package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// WarmConfig bounds the containers that wait for jobs: each runs its guest, in a
// network of its class, and has not heard of any job.
type WarmConfig struct {
	// Containers is how many wait at most; 0 keeps none.
	Containers int
	// MemoryMiB is what they may take together while they wait.
	MemoryMiB int
}

const (
	// idleMiB is what one that waits takes: its guest, its shim, and what the
	// daemon has beside it.
	idleMiB = 32
	// warmDeadline is how long one that waits lives without its agent.
	warmDeadline = 2 * time.Minute
)

// box is a container that waits.
type box struct{ *sandbox }

// maker implements pool.Maker.
type maker struct{ e *Executor }

// Make makes a container of an image that is here.
func (m maker) Make(ctx context.Context, class nimbus.Class) (*box, error) {
	e := m.e
	g := e.images.fetched.grip()
	defer g.release()
	p, err := e.images.get(ctx, g, class.Image, func(string) {})
	if err != nil {
		return nil, err
	}
	if err := e.unfit.known(p.id); err != nil {
		return nil, err
	}
	machine := nimbus.NewID(prefixWaiting, time.Now())
	e.owned.Add(machine)
	s := &sandbox{executor: e, id: machine, machine: machine, dir: filepath.Join(e.waitingDir(), machine), picture: p, carried: e.carry(ctx), origin: nimbus.OriginWarm}
	b := &box{s}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make folder of a container: %w", err), e.discard(context.WithoutCancel(ctx), s))
	}
	if err := e.make(ctx, s, class, warmDeadline); err != nil {
		return nil, errors.Join(e.unfit.note(p.id, err), e.discard(context.WithoutCancel(ctx), s))
	}
	return b, nil
}

// Renew moves the shim's deadline.
func (m maker) Renew(ctx context.Context, b *box) error { return b.Renew(ctx, warmDeadline) }

// Drop removes one that nobody needs.
func (m maker) Drop(ctx context.Context, b *box) {
	if err := m.e.discard(context.WithoutCancel(ctx), b.sandbox); err != nil {
		m.e.cfg.Log.WarnContext(ctx, "discard container", "error", err)
	}
}

// discard removes a container that is no job's. What it can't remove, the sweep
// will.
func (e *Executor) discard(ctx context.Context, s *sandbox) error {
	defer e.owned.Remove(s.machine)
	if err := s.Destroy(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove folder of a container: %w", err)
	}
	return nil
}

// Warm implements executor.Warmer.
func (e *Executor) Warm() []nimbus.Class { return e.warm.Warm() }

// KeepWarm implements executor.Warmer.
func (e *Executor) KeepWarm(ctx context.Context, free func() nimbus.Capacity, changed func()) error {
	e.warm.Keep(ctx, free, changed)
	return nil
}

// takeWarm gives a container that waits to a sandbox, nil when none of them
// serves.
func (e *Executor) takeWarm(ctx context.Context, p picture, c carried, spec executor.Spec) *sandbox {
	b, ok := e.warm.Take(spec.Class)
	if !ok {
		return nil
	}
	err := errors.New("its image, or GitHub's runner, has changed since")
	if b.picture.id == p.id && slices.Equal(b.picture.env, p.env) && b.carried.kit == c.kit {
		if err = b.Renew(ctx, spec.Deadline); err == nil {
			err = e.hand(b.sandbox, spec.ID, spec.Dir)
		}
	}
	if err == nil {
		return b.sandbox
	}
	e.cfg.Log.InfoContext(ctx, "a container that waited is of no use", "sandbox", spec.ID, "error", err)
	if err := e.discard(context.WithoutCancel(ctx), b.sandbox); err != nil {
		e.cfg.Log.WarnContext(ctx, "discard container", "error", err)
	}
	return nil
}
