package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/api"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/jailer"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/pages"
)

// servePages puts a page server between the shim and the monitor.
func (d *Driver) servePages(root jailer.Root, m vmm.Machine, monitor []string) ([]string, error) {
	path := filepath.Join(m.Dir, pagesFile)
	err := pages.Spec{
		SocketDir: root.Path, SocketName: pagesSocket, UID: root.UID,
		Memory: m.From.Memory, WorkingSet: m.From.WorkingSet, Command: monitor,
	}.Write(path)
	if err != nil {
		return nil, err
	}
	return []string{d.cfg.Shim, pages.Flag, path}, nil
}

// Restore makes the machine of a snapshot and leaves it paused.
func (d *Driver) Restore(ctx context.Context, m vmm.Machine) error {
	caps, err := d.Probe(ctx)
	if err != nil {
		return err
	}
	if m.From == nil {
		return errors.New("restore: there is no snapshot")
	}
	if m.From.Monitor != caps.Version {
		return nimbus.Errorf(nimbus.CodeConflict, "the snapshot was made by %s, this is %s", m.From.Monitor, caps.Version).
			WithHint("make the snapshot again")
	}
	c, err := await(ctx, m.Dir)
	if err != nil {
		return err
	}
	defer c.Close()
	load := api.SnapshotLoad{
		State: stateFile, Memory: api.MemoryBackend{Type: api.BackendFile, Path: memoryFile},
		ClockRealtime: true, // the guest's clock would stand where it was
	}
	if d.cfg.Shim != "" {
		load.Memory = api.MemoryBackend{Type: api.BackendUffd, Path: pagesSocket}
	}
	if m.Device != nil {
		load.Networks = []api.NetworkOverride{{ID: deviceID, HostDev: m.Device.Tap}}
	}
	if err := c.LoadSnapshot(ctx, load); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if m.Metadata != nil && m.Device != nil { // what was in it is not in the snapshot
		if err := c.PutMMDS(ctx, m.Metadata); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	return nil
}

// Pause stops the machine's processors.
func (*Driver) Pause(ctx context.Context, dir string) error {
	return with(dir, "pause", func(c *api.Client) error { return c.Pause(ctx) })
}

// Resume lets the machine's processors run.
func (*Driver) Resume(ctx context.Context, dir string) error {
	return with(dir, "resume", func(c *api.Client) error { return c.Resume(ctx) })
}

// with calls the monitor of the machine in dir.
func with(dir, what string, call func(*api.Client) error) error {
	c, err := client(dir)
	if err == nil {
		defer c.Close()
		err = call(c)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Snapshot saves the paused machine in dir.
func (d *Driver) Snapshot(ctx context.Context, dir, into string) (vmm.Snapshot, error) {
	caps, err := d.Probe(ctx)
	if err != nil {
		return vmm.Snapshot{}, err
	}
	root, err := root(dir)
	if err != nil {
		return vmm.Snapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	// Those of an earlier try.
	for _, name := range []string{stateFile, memoryFile} {
		if err := os.Remove(filepath.Join(root.Path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return vmm.Snapshot{}, fmt.Errorf("snapshot: %w", err)
		}
	}
	err = with(dir, "snapshot", func(c *api.Client) error {
		return c.CreateSnapshot(ctx, api.SnapshotCreate{State: stateFile, Memory: memoryFile, Type: api.SnapshotFull})
	})
	if err != nil {
		return vmm.Snapshot{}, err
	}
	s := vmm.Snapshot{
		Monitor: caps.Version, State: filepath.Join(into, stateFile), Memory: filepath.Join(into, memoryFile),
		WorkingSet: filepath.Join(into, "working-set"),
	}
	if err := errors.Join(root.Take(stateFile, s.State), root.Take(memoryFile, s.Memory)); err != nil {
		return vmm.Snapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	return s, nil
}
