package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// TestWhatIsNoImageIsTold: a folder in the place of an image may hold anything.
func TestWhatIsNoImageIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage, pipe := filepath.Join(dir, "garbage"), filepath.Join(dir, "pipe")
	err := errors.Join(os.Mkdir(garbage, 0o700), os.Mkdir(pipe, 0o700), os.Mkdir(filepath.Join(dir, ".draft-1"), 0o700),
		os.WriteFile(filepath.Join(garbage, "image.json"), []byte("{"), 0o600), unix.Mkfifo(filepath.Join(pipe, "image.json"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	s := image.Store{Dir: dir}
	publish(t, s, "whole")
	for folder, manifest := range map[string]string{"half": "{}", "other": `{"name": "whole"}`} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, folder), 0o700), os.WriteFile(filepath.Join(dir, folder, "image.json"), []byte(manifest), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	broken := s.Broken()
	if !slices.Equal(s.Names(), []string{"whole"}) || len(broken) != 4 || !strings.Contains(broken[1].Error(), "half") || !strings.Contains(broken[3].Error(), "pipe") {
		t.Errorf("%v, %v", s.Names(), broken)
	}
}
