package fs

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// Of a disk a store WithReserve leaves a twentieth free, but not less than
// leastReserve and not more than mostReserve; of a small one an eighth.
const (
	leastReserve = 512 << 20
	mostReserve  = 8 << 30
)

// lookEvery is how long what was seen of the disk holds.
const lookEvery = time.Second

// reserveOf is how much stays free of a disk.
func reserveOf(total int64) int64 {
	return min(max(total/20, leastReserve), mostReserve, total/8)
}

// fullHint is for who runs the server; others can but tell them.
const fullHint = "whoever runs the server has to make room on the disk of its data directory (--data), then the same call works"

// full is why nothing is written to a disk without room.
func full(message string, err error) error {
	return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: message, Hint: fullHint, Err: err}
}

// reserve keeps the last of a disk for others, such as the database. The disk is
// looked at once a second; in between, what is written is counted.
type reserve struct {
	root *os.Root

	mu      sync.Mutex
	looked  time.Time
	free    int64
	reserve int64
}

// take counts bytes that are about to be written. Codes: unavailable, as of a disk
// that is full, where they would take what stays free; internal.
func (r *reserve) take(n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.looked) >= lookEvery {
		if err := r.look(); err != nil {
			return err
		}
		r.looked = now
	}
	if r.free-n < r.reserve {
		return full(fmt.Sprintf("the server's disk is full: %d MiB are free, and contents of caches and images leave %d MiB to the rest", max(r.free, 0)>>20, r.reserve>>20), unix.ENOSPC)
	}
	r.free -= n
	return nil
}

// Spare counts bytes that are about to be written to the store's disk by somebody
// else, as to a database, for whom what the store leaves free is not. Codes:
// unavailable, as of a disk that is full.
func (s *Store) Spare(n int64) error {
	if s.reserve == nil {
		return nil
	}
	return s.reserve.take(n)
}

func (r *reserve) look() error {
	dir, err := r.root.Open(".")
	if err != nil {
		return fmt.Errorf("look how full the disk is: %w", err)
	}
	defer dir.Close()
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil { //nolint:gosec // a descriptor
		return fmt.Errorf("look how full the disk is: %w", err)
	}
	//nolint:gosec // sizes of disks
	r.free, r.reserve = int64(s.Bavail)*s.Bsize, reserveOf(int64(s.Blocks)*s.Bsize)
	return nil
}

// sparing writes what leaves the reserve.
type sparing struct {
	io.Writer

	reserve *reserve
}

// Write implements io.Writer.
func (s sparing) Write(p []byte) (int, error) {
	if err := s.reserve.take(int64(len(p))); err != nil {
		return 0, err
	}
	return s.Writer.Write(p) //nolint:wrapcheck // receive says what was being done
}
