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

// TestRunnerVersion: GitHub's own runner has one, the stand-in and what is not
// there have none.
func TestRunnerVersion(t *testing.T) {
	t.Parallel()
	store := image.Store{Dir: t.TempDir()}
	publish := func(name, runner string) {
		t.Helper()
		d, err := store.Draft()
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{d.Kernel(), d.Modules(), d.Root()} {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.Publish(image.Manifest{Name: name, Runner: runner}); err != nil {
			t.Fatal(err)
		}
	}
	publish("runner", image.OfficialPrefix+"2.337.0")
	publish("demo", "stand-in")
	publish("bare", "")
	for name, want := range map[string]string{"runner": "2.337.0", "demo": "", "bare": "", "none": ""} {
		if got := store.RunnerVersion(name); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	publish("runner", image.OfficialPrefix+"2.338.0") // a rebuilt one counts at once
	if got := store.RunnerVersion("runner"); got != "2.338.0" {
		t.Errorf("rebuilt, it has %q", got)
	}
}
