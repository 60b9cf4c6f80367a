package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestFoldersOfNobody go at the second look, so that one that is about to be
// somebody's stays.
func TestFoldersOfNobody(t *testing.T) {
	t.Parallel()
	a := &Agent{cfg: Config{Data: t.TempDir()}, log: slog.New(slog.DiscardHandler), attempts: map[string]*attempt{}}
	for _, name := range []string{"att_known", "att_new", "att_orphan"} {
		if err := os.MkdirAll(filepath.Join(a.attemptsDir(), name, "sandbox"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	know := func(id string) {
		a.attempts[id] = &attempt{assign: nimbus.Assignment{Lease: nimbus.Lease{AttemptID: id}}}
	}
	know("att_known")
	orphans := a.sweepFolders(t.Context(), nil)
	if !slices.Equal(orphans, []string{"att_new", "att_orphan"}) {
		t.Errorf("seem to be nobody's: %v", orphans)
	}
	know("att_new")
	if orphans = a.sweepFolders(t.Context(), orphans); len(orphans) > 0 {
		t.Errorf("still: %v", orphans)
	}
	var left []string
	entries, err := os.ReadDir(a.attemptsDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if !slices.Equal(left, []string{"att_known", "att_new"}) {
		t.Errorf("left: %v", left)
	}
}
