package wholefile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// broken gives a part and then an error.
type broken struct{ said bool }

var errBroken = errors.New("broken")

func (b *broken) Read(p []byte) (int, error) {
	if b.said {
		return 0, errBroken
	}
	b.said = true
	return copy(p, "a part"), nil
}

// TestWholeOrAsBefore: with what was meant or what was there, and nothing beside.
func TestWholeOrAsBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	holds := func(want string, mode os.FileMode) {
		t.Helper()
		text, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err = errors.Join(err, statErr); err != nil || string(text) != want || info.Mode().Perm() != mode {
			t.Errorf("%q, %v, %v", text, info, err)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Errorf("beside it: %v, %v", all, err)
		}
	}
	if err := wholefile.Write(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	holds("one", 0o600)
	before, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := wholefile.WriteDurable(path, []byte("two"), 0o755); err != nil {
		t.Fatal(err)
	}
	holds("two", 0o755)
	if text, err := io.ReadAll(before); err != nil || string(text) != "one" {
		t.Errorf("who had it open has %q, %v", text, err)
	}
	if err := wholefile.Copy(path, &broken{}, 0o600); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	holds("two", 0o755)
	if err := wholefile.Write(filepath.Join(dir, "none", "file"), nil, 0o600); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "draft") {
		t.Errorf("got %v", err)
	}
}
