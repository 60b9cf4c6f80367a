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
