package guest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestDiskFull: a disk on which a job could write no more is full, though some is
// left of it; a small one that is well used is not.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	for name, c := range map[string]struct {
		size   string
		bytes  int64 // to leave
		inodes string
		full   bool
	}{
		"to the last byte":              {"64m", 0, "0", true},
		"but for what ext4 leaves":      {"64m", 450 << 10, "0", true},
		"but for some MiB of many":      {"1g", 3 << 20, "0", true},
		"with a hundredth left of much": {"1g", 10 << 20, "0", false},
		"a small one that is in use":    {"2m", 128 << 10, "0", false},
		"of names":                      {"64m", 32 << 20, "2", true}, // the folder's, and the file's
	} {
		t.Run(name, func(t *testing.T) {
			disk := t.TempDir()
			if err := unix.Mount("none", disk, "tmpfs", 0, "size="+c.size+",nr_inodes="+c.inodes); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
			var s unix.Statfs_t
			if err := unix.Statfs(disk, &s); err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(filepath.Join(disk, "file"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(s.Blocks)*s.Bsize-c.bytes); err != nil {
				t.Fatal(err)
			}
			if got := diskFull(disk); got != c.full {
				t.Errorf("full: %t", got)
			}
		})
	}
}

// TestEachDiskIsLookedAt, not only the one with the workspace.
func TestEachDiskIsLookedAt(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	full, free := t.TempDir(), t.TempDir()
	for dir, size := range map[string]string{full: "4k", free: "64m"} {
		if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	if err := os.WriteFile(filepath.Join(full, "file"), make([]byte, 4<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, disks := range map[bool][]string{true: {free, full, free}, false: {free, "/nowhere"}} {
		n := &namespace{disks: disks}
		if got := n.exit(nil, os.ErrInvalid).GetDiskFull(); got != want {
			t.Errorf("of %q one is full: %t", disks, got)
		}
	}
}

// TestMachineShort: what containers meet of their own bounds is not what the
// machine lacks.
func TestMachineShort(t *testing.T) {
	t.Parallel()
	for events, want := range map[string]bool{
		"low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n": false, "max 40\noom 2\noom_kill 2\noom_group_kill 0\n": false,
		"max 0\noom 0\noom_kill 1\n": true, "": false,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte(events), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := machineShort(dir); got != want {
			t.Errorf("%q: %v", events, got)
		}
	}
	if machineShort(t.TempDir()) {
		t.Error("where nothing is counted")
	}
}
