package image

import (
	"errors"
	"os"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/durable/durabletest"
)

// build publishes an image whose files have that text.
func build(t *testing.T, s Store, text string) error {
	t.Helper()
	d, err := s.Draft()
	if err != nil {
		return err
	}
	for _, path := range []string{d.Kernel(), d.Modules(), d.Root()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if f, ok := s.disk.(*durabletest.Fragile); ok {
			f.Written(path)
		}
	}
	_, err = d.Publish(Manifest{Name: "name", Recipe: text})
	return err
}

// TestPowerCut cuts the power at every step in which a built image takes the
// place of another, in every way in which a disk may have lost what was not
// synced: there is a whole image of that name afterwards, the old one or the new
// one, and the next build works.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	const enough = 1 << 10
	f := durabletest.New(enough)
	s := Store{Dir: t.TempDir()}
	must(t, build(t, s, "old"))
	s.disk = f
	must(t, build(t, s, "new"))
	steps := enough - f.Left
	if steps < 5 {
		t.Fatalf("a build has %d steps", steps)
	}
	durabletest.EachCut(t, steps+1, func(t *testing.T, step int, contents, names string) {
		t.Helper()
		s := Store{Dir: t.TempDir()}
		must(t, build(t, s, "old"))
		f := durabletest.New(step)
		cut := Store{Dir: s.Dir, disk: f}
		done := step == steps // what was told to be done is so for good
		if err := build(t, cut, "new"); !errors.Is(err, durabletest.ErrCut) && (!done || err != nil) {
			t.Fatalf("cut at step %d: %v", step, err)
		}
		f.Lose(t, contents, names)
		img, err := s.Open("name")
		if err != nil || img.Recipe != "new" && (done || img.Recipe != "old") {
			t.Fatalf("the machine is back with %+v, %v", img, err)
		}
		if err := img.Verify(); err != nil {
			t.Error(err)
		}
		if all := s.Names(); len(all) != 1 || all[0] != "name" {
			t.Errorf("it has %q", all)
		}
		must(t, build(t, s, "newest"))
		if img, err := s.Open("name"); err != nil || img.Recipe != "newest" || img.Verify() != nil {
			t.Errorf("the next build: %+v, %v", img, err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
