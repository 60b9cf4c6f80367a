package microvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// A machine that was made before its job has a name and a folder of its own.
// Once it is a sandbox' machine, the folder has taken the place of the
// sandbox', and a file of the machine's name tells whose it is: the names of
// its network and its cgroup can't be changed.

// prefixMachine begins the ids of machines that were made before their job.
const prefixMachine = "vm"

func (e *Executor) machinesDir() string         { return filepath.Join(e.cfg.Dir, "machines") }
func (e *Executor) claimsDir() string           { return filepath.Join(e.cfg.Dir, "claims") }
func (e *Executor) claim(machine string) string { return filepath.Join(e.claimsDir(), machine) }

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
	defer e.owned.remove(s.machine)
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
	if err := os.MkdirAll(e.claimsDir(), 0o700); err != nil {
		return fmt.Errorf("make folder of claims: %w", err)
	}
	if err := os.WriteFile(e.claim(s.machine), []byte(id), 0o600); err != nil {
		return fmt.Errorf("claim machine: %w", err)
	}
	if keeper, ok := e.cfg.Driver.(vmm.Keeper); ok {
		if err := keeper.Moving(s.dir, dir); err != nil {
			return errors.Join(fmt.Errorf("claim machine: %w", err), os.Remove(e.claim(s.machine)))
		}
	}
	// Not by os.Rename, which does not know that an empty folder may be replaced.
	if err := unix.Rename(s.dir, dir); err != nil {
		return errors.Join(fmt.Errorf("claim machine: %w", err), os.Remove(e.claim(s.machine)))
	}
	s.id, s.dir = id, dir
	e.owned.remove(s.machine)
	client, err := shim.Open(dir) // it is reached by its folder
	if err != nil {
		return fmt.Errorf("claim machine: %w", err)
	}
	s.Shim = client
	return nil
}

// owner is the sandbox of a machine: the one that it was claimed for, or the
// one whose name it has.
func (e *Executor) owner(machine string) (string, error) {
	raw, err := os.ReadFile(e.claim(machine))
	if errors.Is(err, fs.ErrNotExist) {
		return machine, nil
	}
	if err != nil {
		return "", fmt.Errorf("look whose machine it is: %w", err)
	}
	return string(raw), nil
}

// machineOf is the machine of a sandbox.
func (e *Executor) machineOf(id string) (string, error) {
	machines, err := names(e.claimsDir())
	if err != nil {
		return "", err
	}
	for _, machine := range machines {
		if owner, err := e.owner(machine); err != nil || owner == id {
			return machine, err
		}
	}
	return id, nil
}

// forget removes what tells of a machine that is gone.
func (e *Executor) forget(machine string) error {
	if err := os.Remove(e.claim(machine)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget machine: %w", err)
	}
	if !strings.HasPrefix(machine, prefixMachine+"_") {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(e.machinesDir(), machine)); err != nil {
		return fmt.Errorf("forget machine: %w", err)
	}
	return nil
}

// names lists a folder that need not be there.
func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s: %w", filepath.Base(dir), err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}
