package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/durable/durabletest"
)

// convert publishes a root of that text and gives it a name.
func convert(t *testing.T, s *Store, name, text string) error {
	t.Helper()
	d, err := s.Draft(t.Context())
	if err != nil {
		return err
	}
	if f, ok := s.disk.(*durabletest.Fragile); ok {
		f.Written(d.Path())
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
	if f, ok := d.store.disk.(*durabletest.Fragile); ok {
		root, err := d.publish(t.Context(), m, Provenance{Builder: "test", Began: time.Now()})
		if f.Cut {
			return Root{}, durabletest.ErrCut
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
	durabletest.EachCut(t, steps, cutAt)
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
	f := durabletest.New(enough)
	s.disk = f
	if err := convert(t, s, "name", "new"); err != nil {
		t.Fatal(err)
	}
	return enough - f.Left
}

// cutAt cuts one conversion and looks at what is left.
func cutAt(t *testing.T, step int, contents, names string) {
	t.Helper()
	dir := t.TempDir()
	if err := convert(t, Open(dir), "name", "old"); err != nil {
		t.Fatal(err)
	}
	s := Open(dir)
	f := durabletest.New(step)
	s.disk = f
	if err := convert(t, s, "name", "new"); !errors.Is(err, durabletest.ErrCut) {
		t.Fatalf("cut at step %d: %v", step, err)
	}
	f.Lose(t, contents, names)

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
