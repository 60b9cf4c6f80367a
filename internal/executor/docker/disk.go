package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// loopControl gives loop devices away.
const loopControl = "/dev/loop-control"

// attachTries is how often a loop device is asked for: somebody else may take
// the one that was free.
const attachTries = 16

// writable are the folders that a job can write to: each is a disk of its own,
// or where there are none, a part of its memory.
func writable() []string { return []string{workDir, "/tmp", homeDir} }

// diskFile is the file of one of a sandbox' disks, in its folder.
func diskFile(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("disk%d.ext4", n)) }

// disks are the devices of a sandbox' disks, in the order of writable. They are
// detached with the last who has them open or mounted: this process until
// release, then the daemon for as long as the container runs.
type disks []*os.File

func (d disks) release() {
	for _, f := range d {
		f.Close()
	}
}

// layDisks makes the disks of a sandbox; none where there are no loop devices.
func (e *Executor) layDisks(ctx context.Context, s *sandbox) (disks, error) {
	if e.checkLoops() != nil {
		return nil, nil
	}
	var made disks
	for n := range writable() {
		path := diskFile(s.dir, n)
		err := e.disks.Make(ctx, path)
		var device *os.File
		if err == nil {
			device, err = attach(path)
		}
		if err != nil {
			made.release()
			return nil, err
		}
		made = append(made, device)
	}
	return made, nil
}

// attach makes a block device of a file.
func attach(path string) (*os.File, error) {
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach disk: %w", err)
	}
	defer backing.Close() // the device has it
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach disk: %w", err)
	}
	defer control.Close()
	for range attachTries {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a loop device: %w", err)
		}
		device, err := os.OpenFile("/dev/loop"+strconv.Itoa(number), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("attach disk: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
			Fd:   uint32(backing.Fd()), //nolint:gosec // a descriptor
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach disk: %w", err)
		}
	}
	return nil, errors.New("attach disk: others took every loop device that was free")
}
