package executor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Disk is how full a file system is, in bytes, as df has it: what is kept for
// root alone is not there for anybody.
type Disk struct{ Used, Total int64 }

// DiskOf asks how full the file system of a folder is.
func DiskOf(dir string) (Disk, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Disk{}, fmt.Errorf("ask how full the disk of %s is: %w", dir, err)
	}
	used := int64(s.Blocks-s.Bfree) * s.Bsize //nolint:gosec // sizes of disks
	return Disk{used, used + int64(s.Bavail)*s.Bsize}, nil
}

// Percent is how much of it is in use; 0 for a disk without a size.
func (d Disk) Percent() float64 {
	if d.Total <= 0 {
		return 0
	}
	return 100 * float64(d.Used) / float64(d.Total)
}

// Over is how many bytes there are above a percentage; 0 for none.
func (d Disk) Over(percent int) int64 { return max(0, d.Used-d.Total/100*int64(percent)) }
