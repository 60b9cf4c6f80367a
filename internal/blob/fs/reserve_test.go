package fs_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// small is a disk of its own.
func small(t *testing.T, size string) string {
	t.Helper()
	testenv.Require(t, "root")
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	return disk
}

func free(t *testing.T, disk string) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(disk, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// endless never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// wantsFull fails unless an error is that of a full disk, for whoever runs it.
func wantsFull(t *testing.T, err error) {
	t.Helper()
	if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || !nimbus.IsFull(err) || !strings.Contains(err.Error(), "the server's disk is full") || !strings.Contains(nimbus.ErrorHint(err), "--data") {
		t.Errorf("%q: %v; hint %q", nimbus.ErrorCode(err), err, nimbus.ErrorHint(err))
	}
}

// TestTheLastOfTheDiskStaysFree: whatever comes, in one piece or many, the rest of
// what is on the disk has room, and it goes on once there is more.
func TestTheLastOfTheDiskStaysFree(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	disk := small(t, "16m")
	s, err := fs.Open(disk, fs.WithReserve())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Put(t.Context(), "kept", io.LimitReader(endless{}, 8*mib), 8*mib); err != nil {
		t.Fatal(err)
	}
	// Files of others are seen too, a second later at most; small ones add up at once.
	for i := range 3 {
		_, err = s.Put(t.Context(), "large", endless{}, 1<<40)
		wantsFull(t, err)
		if left := free(t, disk); left < 2*mib {
			t.Fatalf("%d: %d bytes are free", i, left)
		}
	}
	wantsFull(t, s.Spare(7*mib)) // nor does what others write on our behalf take it
	if got := files(t, disk); strings.Join(got, " ") != ".incoming kept" {
		t.Errorf("left: %v", got)
	}
	if err := s.Delete(t.Context(), "kept"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = s.Put(t.Context(), "again", io.LimitReader(endless{}, 8*mib), 8*mib); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestADiskWithoutRoom: without a reserve a disk may be filled, and says so.
func TestADiskWithoutRoom(t *testing.T) {
	t.Parallel()
	s, err := fs.Open(small(t, "1m"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Put(t.Context(), "large", endless{}, 1<<40)
	wantsFull(t, err)
	if err := s.Spare(1 << 40); err != nil {
		t.Errorf("it leaves nothing free, and yet: %v", err)
	}
}
