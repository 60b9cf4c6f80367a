package docker

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestGroupsOfARemnantGo: they are empty, and no container of anybody else's has
// that id.
func TestGroupsOfARemnantGo(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	raw := make([]byte, containerDigits/2)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	id := hex.EncodeToString(raw)
	roots, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs") // each hierarchy of v1
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, root := range append(roots, "/sys/fs/cgroup/cgroup.procs") {
		if _, err := os.Stat(root); err != nil {
			continue
		}
		dir := filepath.Join(filepath.Dir(root), "docker", id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(filepath.Dir(dir)) }) // unless a daemon has containers there
		dirs = append(dirs, dir)
	}
	if len(dirs) == 0 {
		t.Fatal("this machine has no control groups")
	}
	if err := (&Executor{}).endRemnants(t.Context(), "machine", id); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", dir, err)
		}
	}
}
