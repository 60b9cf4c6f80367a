package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// prefixMachine begins the ids of machines that were made before their job.
const prefixMachine = "vm"

func (e *Executor) machinesDir() string { return filepath.Join(e.cfg.Dir, "machines") }

// newMachine makes the folder and the network of a machine without a job, and
// holds its image.
func (e *Executor) newMachine(ctx context.Context, r recipe, reach netslot.Reach) (*sandbox, error) {
	id, slot, err := e.network(ctx, reach)
	if err != nil {
		return nil, err
	}
	s := &sandbox{executor: e, id: id, machine: id, dir: filepath.Join(e.machinesDir(), id), slot: slot, env: r.img.Env()}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make folder of a machine: %w", err), e.discard(context.WithoutCancel(ctx), s))
	}
	if _, err := e.cfg.Images.Get(ctx, r.class.Image, e.cgroup(id), func(string) {}); err != nil {
		return nil, errors.Join(err, e.discard(context.WithoutCancel(ctx), s))
	}
	return s, nil
}

// discard removes a machine that nobody needs. What it can't remove, the sweep
// will.
func (e *Executor) discard(ctx context.Context, s *sandbox) error {
	defer e.owned.Remove(s.machine)
	if err := s.Destroy(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove folder of a machine: %w", err)
	}
	return nil
}

// hand makes a machine the sandbox' own. A crash at any point leaves what the
// sweep finds.
func (e *Executor) hand(s *sandbox, id, dir string) error {
	var moving func() error
	if keeper, ok := e.cfg.Driver.(vmm.Keeper); ok {
		moving = func() error { return keeper.Moving(s.dir, dir) }
	}
	if err := e.claims.Hand(s.machine, s.dir, id, dir, moving); err != nil {
		return err
	}
	s.id, s.dir = id, dir
	e.owned.Remove(s.machine)
	client, err := shim.Open(dir) // it is reached by its folder
	if err != nil {
		return fmt.Errorf("claim machine: %w", err)
	}
	s.Shim = client
	return nil
}

// forget removes what tells of a machine that is gone.
func (e *Executor) forget(machine string) error {
	if err := e.claims.Drop(machine); err != nil {
		return err
	}
	if !strings.HasPrefix(machine, prefixMachine+"_") {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(e.machinesDir(), machine)); err != nil {
		return fmt.Errorf("forget machine: %w", err)
	}
	return nil
}
