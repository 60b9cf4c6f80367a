package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// errCut is what every step after the cut answers.
var errCut = errors.New("the power is gone")

// fragile is a disk that loses its power after some steps. What was not synced
// by then may be there, in part or not at all: see lose.
type fragile struct {
	realDisk

	left    int
	cut     bool
	dirty   map[string]bool // files whose content is not on the disk
	unnamed []move          // names that are not on the disk, oldest first
}

// move is a change of a folder: a file that appeared, or came from elsewhere.
type move struct {
	from, to string // from "" for a new one
	before   []byte // what had the name, nil for nothing
}

func (f *fragile) step() error {
	if f.left--; f.left < 0 {
		f.cut = true
		return errCut
	}
	return nil
}

func (f *fragile) Write(path string, data []byte, mode os.FileMode) error {
	if err := f.step(); err != nil {
		return err
	}
	f.dirty[path] = true
	f.unnamed = append(f.unnamed, move{to: path})
	return f.realDisk.Write(path, data, mode)
}

func (f *fragile) Sync(path string) error {
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
	return f.realDisk.Sync(path)
}

func (f *fragile) Rename(from, to string) error {
	if err := f.step(); err != nil {
		return err
	}
	before, err := os.ReadFile(to)
	if err != nil {
		before = nil
	}
	if err := f.realDisk.Rename(from, to); err != nil {
		f.left++ // there was nothing to move
		return err
	}
	m := move{from, to, before}
	f.unnamed = append(f.unnamed, m)
	for path := range f.dirty {
		if now := m.moved(path); now != path {
			delete(f.dirty, path)
			f.dirty[now] = true
		}
	}
	return nil
}

// moved is where a path leads to afterwards.
func (m move) moved(path string) string {
	if m.from != "" && (path == m.from || strings.HasPrefix(path, m.from+"/")) {
		return m.to + path[len(m.from):]
	}
	return path
}

// lose makes of the files what a disk may have after the cut.
func (f *fragile) lose(t *testing.T, contents, names string) {
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
		var err error
		if m.from == "" {
			err = os.Remove(m.to)
		} else {
			err = os.Rename(m.to, m.from)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if m.before != nil {
			if err := os.WriteFile(m.to, m.before, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// convert publishes a root of that text and gives it a name.
func convert(t *testing.T, s *Store, name, text string) error {
	t.Helper()
	d, err := s.Draft(t.Context())
	if err != nil {
		return err
	}
	if f, ok := s.disk.(*fragile); ok { // written by another program, not synced
		f.dirty[d.Path()] = true
		f.unnamed = append(f.unnamed, move{to: d.Path()})
		defer d.held.Close() // a process without power does not tidy up
	}
	if err := os.WriteFile(d.Path(), []byte(text), 0o600); err != nil {
		return err
	}
	root, err := publish(t, d, text)
	if err != nil {
		return err
	}
	return s.SetRef(t.Context(), Ref{Name: name, Digest: root.Digest, At: time.Now()})
}

// publish does what Publish does, but leaves the draft as a cut would.
func publish(t *testing.T, d *Draft, source string) (Root, error) {
	t.Helper()
	m := Manifest{Arch: "amd64", Source: source, SourceDigest: "sha256:" + strings.Repeat("0", 64), ConvertedAt: time.Now().UTC()}
	if f, ok := d.store.disk.(*fragile); ok {
		root, err := d.publish(t.Context(), m, Provenance{Builder: "test", Began: time.Now()})
		if f.cut {
			return Root{}, errCut
		}
		return root, err
	}
	return d.Publish(t.Context(), m, Provenance{Builder: "test", Began: time.Now()})
}

// TestPowerCut cuts the power at every step of a conversion, in every way in
// which a disk may have lost what was not synced: what is listed afterwards is
// whole and signed, the image from before still is, the name means one of the
// two, the next conversion works, and nothing is left of the one that was cut.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	steps := stepsOfOne(t)
	if steps < 10 {
		t.Fatalf("a conversion has %d steps", steps)
	}
	for _, contents := range []string{"kept", "torn", "empty"} {
		for _, names := range []string{"kept", "lost"} {
			for step := range steps {
				t.Run(fmt.Sprintf("%s contents, %s names, step %d of %d", contents, names, step, steps), func(t *testing.T) {
					t.Parallel()
					cutAt(t, step, contents, names)
				})
			}
		}
	}
}

// stepsOfOne is how many steps a conversion has where there was another.
func stepsOfOne(t *testing.T) int {
	t.Helper()
	const enough = 1 << 10
	dir := t.TempDir()
	if err := convert(t, Open(dir), "name", "old"); err != nil {
		t.Fatal(err)
	}
	s := Open(dir)
	f := &fragile{left: enough, dirty: map[string]bool{}}
	s.disk = f
	if err := convert(t, s, "name", "new"); err != nil {
		t.Fatal(err)
	}
	return enough - f.left
}

// cutAt cuts one conversion and looks at what is left.
func cutAt(t *testing.T, step int, contents, names string) {
	t.Helper()
	dir := t.TempDir()
	if err := convert(t, Open(dir), "name", "old"); err != nil {
		t.Fatal(err)
	}
	s := Open(dir)
	f := &fragile{left: step, dirty: map[string]bool{}}
	s.disk = f
	if err := convert(t, s, "name", "new"); !errors.Is(err, errCut) {
		t.Fatalf("cut at step %d: %v", step, err)
	}
	f.lose(t, contents, names)

	after := Open(dir) // the machine is back
	roots, broken := after.List()
	if len(broken) > 0 {
		t.Errorf("half an image is listed: %v", broken)
	}
	for _, r := range roots {
		if err := after.Check(r); err != nil {
			t.Errorf("an image that would be used: %v", err)
		}
	}
	if !slices.ContainsFunc(roots, func(r Root) bool { return r.Source == "old" }) {
		t.Errorf("the image from before is gone: %v", roots)
	}
	if _, root, err := after.Ref("name"); err != nil || root.Source != "old" && root.Source != "new" {
		t.Errorf("the name means %q, %v", root.Source, err)
	}
	if err := after.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	for _, pattern := range []string{".*", "*/.new-*"} {
		if left, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(left) > 0 {
			t.Errorf("left after the sweep: %q, %v", left, err)
		}
	}
	if err := convert(t, after, "name", "new"); err != nil {
		t.Errorf("the next conversion: %v", err)
	}
	if _, root, err := after.Ref("name"); err != nil || root.Source != "new" || after.Verify(root) != nil {
		t.Errorf("afterwards the name means %q, %v", root.Source, err)
	}
}
