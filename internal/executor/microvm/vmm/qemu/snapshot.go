package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
)

// Files of a snapshot.
const (
	stateFile = "state"
	// memoryFile is also where a savable machine has its memory.
	memoryFile = "memory"
)

// migrationInterval is how often QEMU is asked how far it is: it tells nobody.
const migrationInterval = 2 * time.Millisecond

// migrationFile is what QEMU calls the file of the state that it was handed.
const migrationFile = "nimbus-state"

// memoryBackend is the memory of a machine that is saved or made of what was
// saved. The one writes through to the file. The others map it privately: what
// none of them wrote to is in memory once for all.
func memoryBackend(m vmm.Machine) string {
	path, share := memoryFile, "on"
	if m.From != nil {
		path, share = escape(m.From.Memory), "off"
	}
	return fmt.Sprintf("memory-backend-file,id=memory,size=%dM,mem-path=%s,share=%s", m.MemoryMiB, path, share)
}

// Boot does nothing: QEMU boots what its command line says.
func (*Driver) Boot(context.Context, vmm.Machine) error { return nil }

// Pause stops the processors.
func (*Driver) Pause(ctx context.Context, dir string) error { return order(ctx, dir, "stop") }

// Resume lets them run.
func (*Driver) Resume(ctx context.Context, dir string) error { return order(ctx, dir, "cont") }

// Snapshot saves a machine that was booted as savable. Its memory becomes the
// snapshot's: it must not run again, and can be saved once.
func (d *Driver) Snapshot(ctx context.Context, dir, into string) (vmm.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	d.mu.Lock()
	s := vmm.Snapshot{Monitor: d.caps.Version, State: filepath.Join(into, stateFile), Memory: filepath.Join(into, memoryFile)}
	d.mu.Unlock()
	if _, err := os.Stat(filepath.Join(dir, memoryFile)); err != nil {
		return s, fmt.Errorf("save machine: it was not booted to be saved: %w", err)
	}
	state, err := os.OpenFile(s.State, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return s, fmt.Errorf("save machine: %w", err)
	}
	err = migrate(ctx, dir, state, "migrate")
	if err := errors.Join(err, state.Close()); err != nil {
		return s, fmt.Errorf("save machine: %w", err)
	}
	if err := os.Rename(filepath.Join(dir, memoryFile), s.Memory); err != nil {
		return s, fmt.Errorf("save machine: %w", err)
	}
	for _, path := range []string{s.State, s.Memory} {
		if err := os.Chmod(path, 0o444); err != nil { //nolint:gosec // its folder is the agent's alone
			return s, fmt.Errorf("save machine: %w", err)
		}
	}
	return s, nil
}

// Restore loads the state into a process that waits for it.
func (*Driver) Restore(ctx context.Context, m vmm.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	state, err := os.Open(m.From.State)
	if err != nil {
		return fmt.Errorf("restore machine: %w", err)
	}
	defer state.Close()
	if err := migrate(ctx, m.Dir, state, "migrate-incoming"); err != nil {
		return fmt.Errorf("restore machine: %w", err)
	}
	return nil
}

// migrate moves the state out or in, without the memory, which has a file of
// its own. The state's file is handed over: QEMU may start no program and open
// no file once it runs.
func migrate(ctx context.Context, dir string, state *os.File, direction string) error {
	q, err := awaitQMP(ctx, dir)
	if err != nil {
		return err
	}
	defer q.close()
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	err = q.do(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []capability{{"x-ignore-shared", true}}}, nil)
	if err != nil {
		return err
	}
	if err := q.pass(ctx, state, migrationFile); err != nil {
		return err
	}
	if err := q.do(ctx, direction, map[string]string{"uri": "fd:" + migrationFile}, nil); err != nil {
		return err
	}
	for {
		var migration struct {
			Status string `json:"status"`
			Error  string `json:"error-desc"`
		}
		if err := q.do(ctx, "query-migrate", nil, &migration); err != nil {
			return err
		}
		switch migration.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("QEMU says %s %s", migration.Status, migration.Error)
		}
		select {
		case <-time.After(migrationInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaitQMP connects to a process that may be starting: at first there is no
// socket, then nobody who listens. Any other failure is one.
func awaitQMP(ctx context.Context, dir string) (*qmp, error) {
	for {
		q, err := dialQMP(ctx, dir)
		if err == nil || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) {
			return q, err
		}
		select {
		case <-time.After(migrationInterval):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}
