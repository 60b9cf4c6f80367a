package image_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/filesum"
)

// publish makes an image of three small files.
func publish(t *testing.T, store image.Store, name string) image.Image {
	t.Helper()
	d, err := store.Draft()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{d.Kernel(), d.Modules(), d.Root()} {
		if err := os.WriteFile(path, []byte(filepath.Base(path)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	img, err := d.Publish(image.Manifest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestChangedFilesAreTold: each file, changed, cut short or gone, is told by its
// name, also of an image under a container image's root.
func TestChangedFilesAreTold(t *testing.T) {
	t.Parallel()
	store := image.Store{Dir: t.TempDir()}
	var files filesum.Book
	for _, file := range []string{"vmlinux", "modules.cpio", "root.squashfs"} {
		for how, change := range map[string]func(path string) error{
			"changed":   func(path string) error { return os.WriteFile(path, []byte("else"), 0o600) },
			"cut short": func(path string) error { return os.Truncate(path, 2) },
			"gone":      os.Remove,
		} {
			img := publish(t, store, "runner") // in the place of the one before
			over := img.WithRoot("python:3.12", "/elsewhere", nil)
			for _, err := range []error{img.Check(&files), over.Check(&files), img.Verify()} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := change(filepath.Join(store.Dir, "runner", file)); err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{img.Check(&files), over.Check(&files), img.Verify()} {
				if err == nil || !strings.Contains(err.Error(), file+` of image "runner"`) || nimbus.ErrorHint(err) != "nimbus images build runner builds it again" {
					t.Errorf("%s %s: %v; %s", file, how, err, nimbus.ErrorHint(err))
				}
			}
		}
	}
}
