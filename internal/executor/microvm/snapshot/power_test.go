package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// errCut is what every step after the cut answers.
var errCut = errors.New("the power is gone")

// fragile is a disk that loses its power after some steps. What was not synced
// by then may be there, in part or not at all: see lose.
type fragile struct {
	realDisk

	t       *testing.T
	left    int
	dirty   map[string]bool // files whose content is not on the disk
	unnamed map[string]bool // those whose names are not
	placed  [2]string       // from and to, until that is on the disk
}

func (f *fragile) step() error {
	if f.left--; f.left < 0 {
		return errCut
	}
	return nil
}

func (f *fragile) Write(path string, data []byte) error {
	if err := f.step(); err != nil {
		return err
	}
	if len(f.dirty) > 0 { // the manifest says what these are
		f.t.Errorf("%s is written before %v are on the disk", filepath.Base(path), f.dirty)
	}
	f.dirty[path], f.unnamed[path] = true, true
	return f.realDisk.Write(path, data)
}

func (f *fragile) Sync(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	delete(f.dirty, path)
	for name := range f.unnamed {
		if filepath.Dir(name) == path {
			delete(f.unnamed, name)
		}
	}
	if path == filepath.Dir(f.placed[1]) {
		f.placed = [2]string{}
	}
	return f.realDisk.Sync(path)
}

func (f *fragile) Place(from, to string) error {
	if err := f.step(); err != nil {
		return err
	}
	if len(f.dirty) > 0 || len(f.unnamed) > 0 {
		f.t.Errorf("placed before it is on the disk: %v, %v", f.dirty, f.unnamed)
	}
	f.placed = [2]string{from, to}
	return f.realDisk.Place(from, to)
}

// lose makes of the files what a disk may have after the cut.
func (f *fragile) lose(contents, names string) {
	f.t.Helper()
	for path := range f.dirty {
		info, err := os.Stat(path)
		if err != nil {
			f.t.Fatal(err)
		}
		size := map[string]int64{"kept": info.Size(), "torn": info.Size() / 2, "empty": 0}[contents]
		if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, size)); err != nil {
			f.t.Fatal(err)
		}
	}
	if names == "kept" {
		return
	}
	if f.placed[0] != "" {
		if err := f.realDisk.Place(f.placed[1], f.placed[0]); err != nil {
			f.t.Fatal(err)
		}
	}
	for path := range f.unnamed {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.t.Fatal(err)
		}
	}
}

// fragilePublish publishes on a disk that loses its power after some steps.
func fragilePublish(t *testing.T, dir string, steps int) (*fragile, error) {
	t.Helper()
	f := &fragile{t: t, left: steps, dirty: map[string]bool{}, unnamed: map[string]bool{}}
	s := Store{Dir: dir, disk: f}
	draft := fill(t, s, "new")
	for _, name := range files() { // the monitor has written them, and synced nothing
		path := filepath.Join(draft, name)
		f.dirty[path], f.unnamed[path] = true, true
	}
	_, err := s.Publish(t.Context(), draft, inputs(), time.Now())
	return f, err
}

// TestPowerCut cuts the power at every step of a snapshot's making, in every way
// in which a disk may have lost what was not synced: what is used afterwards is
// whole, and what is not can be made again.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	const enough = 1 << 10
	whole, err := fragilePublish(t, t.TempDir(), enough)
	steps := enough - whole.left
	if err != nil || steps < 7 {
		t.Fatalf("one has %d steps: %v", steps, err)
	}
	for _, before := range []bool{false, true} {
		for _, contents := range []string{"kept", "torn", "empty"} {
			for _, names := range []string{"kept", "lost"} {
				for step := range steps {
					t.Run(fmt.Sprintf("over another %v, %s contents, %s names, step %d of %d", before, contents, names, step, steps), func(t *testing.T) {
						t.Parallel()
						cutAt(t, before, step, contents, names)
					})
				}
			}
		}
	}
}

func cutAt(t *testing.T, before bool, step int, contents, names string) {
	t.Helper()
	s := Store{Dir: t.TempDir()}
	if before {
		publish(t, s, "old")
	}
	f, err := fragilePublish(t, s.Dir, step)
	if !errors.Is(err, errCut) {
		t.Fatalf("cut at step %d: %v", step, err)
	}
	f.lose(contents, names)

	found, err := s.Open(inputs()) // the machine is back
	switch {
	case err == nil:
		if err := found.Verify(t.Context()); err != nil {
			t.Errorf("one that would be used: %v", err)
		}
	case before || nimbus.ErrorCode(err) != nimbus.CodeNotFound:
		t.Errorf("the one from before: %v", err)
	}
	listed, broken, err := s.List()
	if err != nil || len(broken) > 0 {
		t.Fatal(err, broken)
	}
	for _, l := range listed {
		if err := errors.Join(l.Untouched(), l.Verify(t.Context())); err != nil {
			t.Errorf("one that is listed: %v", err)
		}
	}
	publish(t, s, "next")
	found, err = s.Open(inputs())
	if err != nil || found.Verify(t.Context()) != nil {
		t.Fatalf("the next one: %v", err)
	}
	if raw, err := os.ReadFile(found.Path(StateFile)); err != nil || !strings.HasPrefix(string(raw), "next") {
		t.Errorf("the next one is %q, %v", raw, err)
	}
}
