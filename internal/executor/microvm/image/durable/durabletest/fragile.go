// Package durabletest is a disk that loses its power.
package durabletest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/durable"
)

// ErrCut is what every step after the cut answers.
var ErrCut = errors.New("the power is gone")

// Fragile is a disk that loses its power after some steps. What was not synced
// by then may be there, in part or not at all: see Lose.
type Fragile struct {
	durable.Real

	Left int  // steps until the cut
	Cut  bool // it has come

	dirty   map[string]bool // files whose content is not on the disk
	unnamed []move          // names that are not on the disk, oldest first
}

// New returns a disk with power for so many steps.
func New(steps int) *Fragile { return &Fragile{Left: steps, dirty: map[string]bool{}} }

// move is a change of a folder: a file that appeared, or came from elsewhere.
type move struct {
	from, to string // from "" for a new one
	exchange bool   // the other one went there
	before   []byte // what had the name, nil for nothing
}

// Written tells of a file that another program has written, and not synced.
func (f *Fragile) Written(path string) {
	f.dirty[path] = true
	f.unnamed = append(f.unnamed, move{to: path})
}

func (f *Fragile) step() error {
	if f.Left--; f.Left < 0 {
		f.Cut = true
		return ErrCut
	}
	return nil
}

// Write implements durable.Disk.
func (f *Fragile) Write(path string, data []byte, mode os.FileMode) error {
	if err := f.step(); err != nil {
		return err
	}
	f.Written(path)
	return f.Real.Write(path, data, mode)
}

// Sync implements durable.Disk.
func (f *Fragile) Sync(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	delete(f.dirty, path)
	var left []move
	for _, m := range f.unnamed {
		if filepath.Dir(m.to) != path {
			left = append(left, m)
			continue
		}
		for i := range left { // from now on they are at their new place for good
			left[i].to = m.moved(left[i].to)
		}
	}
	f.unnamed = left
	return f.Real.Sync(path)
}

// Rename implements durable.Disk.
func (f *Fragile) Rename(from, to string) error {
	if err := f.step(); err != nil {
		return err
	}
	before, err := os.ReadFile(to)
	if err != nil {
		before = nil
	}
	if err := f.Real.Rename(from, to); err != nil {
		f.Left++ // there was nothing to move, or something in the way
		return err
	}
	f.note(move{from: from, to: to, before: before})
	return nil
}

// Exchange implements durable.Disk.
func (f *Fragile) Exchange(a, b string) error {
	if err := f.step(); err != nil {
		return err
	}
	if err := f.Real.Exchange(a, b); err != nil {
		return err
	}
	f.note(move{from: a, to: b, exchange: true})
	return nil
}

func (f *Fragile) note(m move) {
	f.unnamed = append(f.unnamed, m)
	dirty := map[string]bool{}
	for path := range f.dirty {
		dirty[m.moved(path)] = true
	}
	f.dirty = dirty
}

// moved is where a path leads to afterwards.
func (m move) moved(path string) string {
	switch {
	case m.from == "":
	case path == m.from || strings.HasPrefix(path, m.from+"/"):
		return m.to + path[len(m.from):]
	case m.exchange && (path == m.to || strings.HasPrefix(path, m.to+"/")):
		return m.from + path[len(m.to):]
	}
	return path
}

// undo makes it not have happened.
func (f *Fragile) undo(m move) error {
	var err error
	switch {
	case m.from == "":
		err = os.Remove(m.to)
	case m.exchange:
		// What was removed too early is gone, whatever came first.
		if err = f.Real.Exchange(m.to, m.from); errors.Is(err, fs.ErrNotExist) {
			err = os.Rename(m.to, m.from)
		}
	default:
		err = os.Rename(m.to, m.from)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil && m.before != nil {
		err = os.WriteFile(m.to, m.before, 0o600)
	}
	return err
}

// Lose makes of the files what a disk may have after the cut: contents that were
// not synced "kept", "torn" or "empty", names "kept" or "lost".
func (f *Fragile) Lose(t *testing.T, contents, names string) {
	t.Helper()
	for path := range f.dirty {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		size := map[string]int64{"kept": info.Size(), "torn": info.Size() / 2, "empty": 0}[contents]
		if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
	}
	if names == "kept" {
		return
	}
	for _, m := range slices.Backward(f.unnamed) {
		if err := f.undo(m); err != nil {
			t.Fatal(err)
		}
	}
}

// EachCut runs try once for each step of something that takes so many, in every
// way in which a disk may have lost what was not synced.
func EachCut(t *testing.T, steps int, try func(t *testing.T, step int, contents, names string)) {
	t.Helper()
	for _, contents := range []string{"kept", "torn", "empty"} {
		for _, names := range []string{"kept", "lost"} {
			for step := range steps {
				t.Run(fmt.Sprintf("%s contents, %s names, step %d of %d", contents, names, step, steps), func(t *testing.T) {
					t.Parallel()
					try(t, step, contents, names)
				})
			}
		}
	}
}
