package image_test

import (
	"errors"
	"os"
	"path/filepath"
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
	broken := s.Broken()
	if len(s.Names()) != 0 || len(broken) != 2 || !strings.Contains(broken[1].Error(), "pipe") {
		t.Errorf("%v, %v", s.Names(), broken)
	}
}
