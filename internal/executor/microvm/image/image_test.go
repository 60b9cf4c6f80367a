package image_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// TestDraftsThatACrashLeft are removed by a later one, not by one beside them.
func TestDraftsThatACrashLeft(t *testing.T) {
	t.Parallel()
	store := image.Store{Dir: t.TempDir()}
	var dirs []string
	for range 2 {
		d, err := store.Draft()
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, filepath.Dir(d.Root()))
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(dirs[0], old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Draft(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dirs[0]); !os.IsNotExist(err) {
		t.Errorf("the old draft is left: %v", err)
	}
	if _, err := os.Stat(dirs[1]); err != nil {
		t.Errorf("the other one is gone: %v", err)
	}
}
