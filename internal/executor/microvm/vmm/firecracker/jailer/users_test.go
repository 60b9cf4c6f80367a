package jailer

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

func TestUsersAreNotShared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	u := &Users{Dir: filepath.Join(dir, "users"), First: 5000, Count: 8}
	folders := make([]string, 8)
	ids := make([]int, 8)
	var wg sync.WaitGroup
	for i := range folders {
		folders[i] = filepath.Join(dir, string(rune('a'+i)))
		if err := os.Mkdir(folders[i], 0o700); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			var err error
			if ids[i], err = u.Take(folders[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, id := range ids {
		if id < 5000 || id >= 5008 || seen[id] {
			t.Errorf("id %d of %v", id, ids)
		}
		seen[id] = true
	}

	// The agent that comes after finds them, and knows whose they are.
	u = &Users{Dir: u.Dir, First: 5000, Count: 8}
	if id, err := u.Take(folders[3]); err != nil || id != ids[3] {
		t.Errorf("%d, %v; it had %d", id, err, ids[3])
	}
	_, err := u.Take(filepath.Join(dir, "ninth"))
	if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || nimbus.ErrorHint(err) == "" {
		t.Errorf("got %v", err)
	}
	// A folder that is gone needs none.
	if err := os.Remove(folders[5]); err != nil {
		t.Fatal(err)
	}
	if id, err := u.Take(filepath.Join(dir, "ninth")); err != nil || id != ids[5] {
		t.Errorf("%d, %v; %d was free", id, err, ids[5])
	}
}

// TestAUserStaysWithItsJail: a machine that waited gets the folder of its job
// while it runs. Nobody may have its user meanwhile, nor before or after.
func TestAUserStaysWithItsJail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	u := &Users{Dir: filepath.Join(dir, "users"), First: 5000, Count: 2}
	from, to, other := filepath.Join(dir, "machine"), filepath.Join(dir, "sandbox"), filepath.Join(dir, "other")
	for _, folder := range []string{from, other} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	id, err := u.Take(from)
	if err != nil {
		t.Fatal(err)
	}
	still := func(when string) {
		t.Helper()
		if got, err := u.Take(other); err != nil || got == id {
			t.Errorf("%s: another jail has user %d: %v", when, got, err)
		}
	}
	if err := u.Move(from, to); err != nil {
		t.Fatal(err)
	}
	still("before the folder went")
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	still("after that")
	if got, err := u.Take(to); err != nil || got != id {
		t.Errorf("the jail has user %d, %v; it had %d", got, err, id)
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	if got, err := u.Take(filepath.Join(dir, "next")); err != nil || got != id {
		t.Errorf("%d, %v; %d was free", got, err, id)
	}
	if err := u.Move(filepath.Join(dir, "nobody"), to); err != nil {
		t.Errorf("a folder without a jail: %v", err)
	}
}
