package microvm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// copyOf is a store with an image of another one, which may be changed.
func copyOf(t *testing.T, from image.Store) image.Store {
	t.Helper()
	to := image.Store{Dir: t.TempDir()}
	if err := os.CopyFS(filepath.Join(to.Dir, nimbus.DefaultImage), os.DirFS(filepath.Join(from.Dir, nimbus.DefaultImage))); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestChangedImageIsNotBooted: a bit of its root is enough, also after it was
// found right. The host says that it has no machines for jobs.
func TestChangedImageIsNotBooted(t *testing.T) {
	cfg := config(t)
	base, ok := cfg.Images.(image.Store)
	if !ok {
		t.Fatalf("%T is no store", cfg.Images)
	}
	images := copyOf(t, base)
	cfg.Images = images
	e := microvm.New(cfg)
	if s := e.Status(t.Context()); !s.Available {
		t.Fatalf("%+v", s)
	}
	root, err := os.OpenFile(filepath.Join(images.Dir, nimbus.DefaultImage, "root.squashfs"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	const at = 1 << 20
	var b [1]byte
	if _, err := root.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := root.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	s, err := e.Create(t.Context(), spec(t))
	if err == nil {
		s.Destroy(t.Context())
		t.Fatal("it was booted")
	}
	if !strings.Contains(err.Error(), "root.squashfs of image") || !strings.Contains(nimbus.ErrorHint(err), "nimbus images build runner") {
		t.Errorf("%v; %s", err, nimbus.ErrorHint(err))
	}
	if s := e.Status(t.Context()); s.Available || !strings.Contains(s.Detail, "root.squashfs") || s.Hint == "" {
		t.Errorf("%+v", s)
	}
}
