package plainfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/plainfile"
)

// TestRegularFilesAlone: nothing else is opened, and nothing is waited for.
func TestRegularFilesAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.WriteFile(at("file"), []byte("four"), 0o600), unix.Mkfifo(at("pipe"), 0o600), os.Symlink("file", at("link")))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := plainfile.Read(at("file"), 4); err != nil || string(text) != "four" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := plainfile.Read(at("file"), 3); err == nil {
		t.Error("one that is too long is read")
	}
	for _, path := range []string{at("pipe"), at("link"), "/dev/zero", dir} {
		if _, _, err := plainfile.Open(path); !errors.Is(err, plainfile.ErrKind) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, _, err := plainfile.Open(at("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}
