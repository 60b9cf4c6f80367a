package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/shim"
)

// A container that was made before its job has a name and a folder of its own.
// Once it is a sandbox', the folder has taken the place of the sandbox', and a
// file of the container's name tells whose it is: its own name, and that of its
// network, stay.

// prefixWaiting begins the names of containers that were made before their job.
const prefixWaiting = "box"

func (e *Executor) waitingDir() string          { return filepath.Join(e.cfg.Dir, "waiting") }
func (e *Executor) claimsDir() string           { return filepath.Join(e.cfg.Dir, "claims") }
func (e *Executor) claim(machine string) string { return filepath.Join(e.claimsDir(), machine) }

// hand makes a container the sandbox' own. A crash at any point leaves what the
// sweep finds.
func (e *Executor) hand(s *sandbox, id, dir string) error {
	if err := os.MkdirAll(e.claimsDir(), 0o700); err != nil {
		return fmt.Errorf("make folder of claims: %w", err)
	}
	if err := os.WriteFile(e.claim(s.machine), []byte(id), 0o600); err != nil {
		return fmt.Errorf("claim container: %w", err)
	}
	// Not by os.Rename, which does not know that an empty folder may be replaced.
	if err := unix.Rename(s.dir, dir); err != nil {
		return errors.Join(fmt.Errorf("claim container: %w", err), os.Remove(e.claim(s.machine)))
	}
	s.id, s.dir = id, dir
	e.owned.remove(s.machine)
	client, err := shim.Open(dir) // it is reached by its folder
	if err != nil {
		return fmt.Errorf("claim container: %w", err)
	}
	s.Shim = client
	return nil
}

// owner is the sandbox of a container: the one that it was claimed for, or the
// one whose name it has.
func (e *Executor) owner(machine string) (string, error) {
	raw, err := os.ReadFile(e.claim(machine))
	if errors.Is(err, fs.ErrNotExist) {
		return machine, nil
	}
	if err != nil {
		return "", fmt.Errorf("look whose container it is: %w", err)
	}
	return string(raw), nil
}

// machineOf is the container of a sandbox.
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

// forget removes what tells of a container that is gone.
func (e *Executor) forget(machine string) error {
	if err := os.Remove(e.claim(machine)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget container: %w", err)
	}
	if !strings.HasPrefix(machine, prefixWaiting+"_") {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(e.waitingDir(), machine)); err != nil {
		return fmt.Errorf("forget container: %w", err)
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

// owned are the containers that are no sandbox' yet, but this process'.
type owned struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (o *owned) add(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ids == nil {
		o.ids = map[string]bool{}
	}
	o.ids[id] = true
}

func (o *owned) remove(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.ids, id)
}

func (o *owned) has(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ids[id]
}
