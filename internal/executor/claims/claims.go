// Package claims keeps whose the machines and containers are that were made
// before their job. Such a one has a name and a folder of its own. Once it is a
// sandbox', the folder has taken the place of the sandbox', and a file of its
// name tells whose it is: the names of its network, its cgroup or its container
// can't be changed.
package claims

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Book is the folder with these files. It need not be there.
type Book struct{ Dir string }

func (b Book) path(machine string) string { return filepath.Join(b.Dir, machine) }

// Note keeps that a machine is a sandbox'.
func (b Book) Note(machine, id string) error {
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder of claims: %w", err)
	}
	if err := os.WriteFile(b.path(machine), []byte(id), 0o600); err != nil {
		return fmt.Errorf("claim %s: %w", machine, err)
	}
	return nil
}

// Hand is Note, and then puts the machine's folder in the place of the
// sandbox', which is empty. A crash in between leaves what a sweep finds. before
// is called in between.
func (b Book) Hand(machine, from, id, to string, before func() error) error {
	err := b.Note(machine, id)
	if err != nil {
		return err
	}
	if before != nil {
		err = before()
	}
	if err == nil {
		err = unix.Rename(from, to) // not by os.Rename, which does not know that an empty folder may be replaced
	}
	if err != nil {
		return errors.Join(fmt.Errorf("claim %s: %w", machine, err), b.Drop(machine))
	}
	return nil
}

// Drop forgets a machine, noted or not.
func (b Book) Drop(machine string) error {
	if err := os.Remove(b.path(machine)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s: %w", machine, err)
	}
	return nil
}

// Owner is the sandbox of a machine: the one that it was claimed for, or the one
// whose name it has.
func (b Book) Owner(machine string) (string, error) {
	raw, err := os.ReadFile(b.path(machine))
	if errors.Is(err, fs.ErrNotExist) {
		return machine, nil
	}
	if err != nil {
		return "", fmt.Errorf("look whose %s is: %w", machine, err)
	}
	return string(raw), nil
}

// MachineOf is the machine of a sandbox.
func (b Book) MachineOf(id string) (string, error) {
	machines, err := Names(b.Dir)
	if err != nil {
		return "", err
	}
	for _, machine := range machines {
		if owner, err := b.Owner(machine); err != nil || owner == id {
			return machine, err
		}
	}
	return id, nil
}

// Names lists a folder that need not be there.
func Names(dir string) ([]string, error) {
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

// Set are the machines that are no sandbox' yet, but this process'. The zero
// value has none.
type Set struct {
	mu  sync.Mutex
	ids map[string]bool
}

// Add adds a machine.
func (s *Set) Add(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[string]bool{}
	}
	s.ids[id] = true
}

// Remove removes one, be it there or not.
func (s *Set) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ids, id)
}

// Has tells whether a machine is one of them.
func (s *Set) Has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids[id]
}
