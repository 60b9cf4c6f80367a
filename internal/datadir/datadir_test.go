package datadir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestALockThatIsUndone leaves nothing of its own, and whatever is not.
func TestALockThatIsUndone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		there []string // before
		made  string   // meanwhile
		left  []string
	}{
		"no directory":      {},
		"an empty one":      {there: []string{"."}, left: []string{"."}},
		"one of a server":   {there: []string{".", "lock", "nimbus.db"}, left: []string{".", "lock", "nimbus.db"}},
		"something is made": {made: "kept", left: []string{".", "kept"}},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		put := func(name string) {
			t.Helper()
			var err error
			if name == "." {
				err = os.Mkdir(dir, 0o700)
			} else if name != "" {
				err = os.WriteFile(filepath.Join(dir, name), nil, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, file := range c.there {
			put(file)
		}
		l, err := Lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Lock(dir); nimbus.ErrorCode(err) != nimbus.CodeConflict {
			t.Errorf("%s: a second one is given: %v", name, err)
		}
		put(c.made)
		if err := l.Undo(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); (err == nil) != (len(c.left) > 0) {
			t.Errorf("%s: the directory: %v", name, err)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		if len(files) != max(0, len(c.left)-1) {
			t.Errorf("%s: %q is left, not %q", name, files, c.left)
		}
	}
}

// TestALockWithoutAName is nobody's: whoever waits for a lock that is undone
// must not take it while another makes a new one.
func TestALockWithoutAName(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := stillThere(f); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := stillThere(f); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("its name is gone: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := stillThere(f); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("its name is another's: %v", err)
	}
}
