package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/executor/claims"
)

// loopControl gives loop devices away.
const loopControl = "/dev/loop-control"

// attachTries is how often a loop device is asked for: somebody else may take
// the one that was free.
const attachTries = 16

// writable are the folders that a job can write to: each is a disk of its own,
// or where there are none, a part of its memory.
func writable() []string { return []string{workDir, "/tmp", homeDir} }

// maxDisks is how many disks a sandbox has at most: one more is for what GitHub's
// runner writes beside its programs.
const maxDisks = 4

// folders are what a sandbox' disks are for, in their order.
func (s *sandbox) folders() []string {
	if s.carried.kit.Dir == "" {
		return writable()
	}
	return append(writable(), runner.OfficialDir)
}

// diskFile is the file of one of a sandbox' disks, in its folder.
func diskFile(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("disk%d.ext4", n)) }

// Disks are mounted on the host for as long as it takes to start their
// container, which then has them to itself: with its end they are unmounted, and
// their devices detached. Volumes of the daemon's would do the same, but one that
// was restarted beside its containers (live-restore) forgets that they are
// mounted (20.10).

func (e *Executor) mountsDir() string { return filepath.Join(e.cfg.Dir, "mounts") }

// mountPoint is where one of a container's disks is until it has started.
func (e *Executor) mountPoint(machine string, n int) string {
	return filepath.Join(e.mountsDir(), machine+"."+strconv.Itoa(n))
}

// layDisks makes and mounts the disks of a sandbox, in the order of its folders;
// none where there are no loop devices.
func (e *Executor) layDisks(ctx context.Context, s *sandbox) (points []string, err error) {
	if e.checkLoops() != nil {
		return nil, nil //nolint:nilerr // Status tells; memory takes their place
	}
	for n := range s.folders() {
		path, point := diskFile(s.dir, n), e.mountPoint(s.machine, n)
		if err := e.disks.Make(ctx, path); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(point, 0o700); err != nil {
			return nil, fmt.Errorf("make mount point: %w", err)
		}
		device, err := attach(path)
		if err != nil {
			return nil, err
		}
		err = e.onHost(func() error {
			return unix.Mount(device.Name(), point, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, "")
		})
		device.Close() // it is detached with the last who has it mounted
		if err != nil {
			return nil, fmt.Errorf("mount disk: %w", err)
		}
		points = append(points, point)
	}
	return points, nil
}

// letGo unmounts a container's disks on the host. What a container has of them
// stays.
func (e *Executor) letGo(machine string) error {
	var errs []error
	for n := range maxDisks {
		point := e.mountPoint(machine, n)
		err := e.onHost(func() error { return unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted, not there
			errs = append(errs, fmt.Errorf("unmount disk: %w", err))
			continue
		}
		if err := os.Remove(point); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove mount point: %w", err))
		}
	}
	return errors.Join(errs...)
}

// mounted lists the containers whose disks were not let go.
func (e *Executor) mounted() (machines []string, err error) {
	points, err := claims.Names(e.mountsDir())
	for _, point := range points {
		machine, _, _ := strings.Cut(point, ".")
		machines = append(machines, machine)
	}
	return machines, err
}

// onHost runs f in the mount namespace of the daemon, which must see what is
// mounted: the agent may have one of its own, as a service. Who can't tell, or
// finds no daemon, is where it is.
func (e *Executor) onHost(f func() error) error {
	pid, err := e.daemon.pid()
	if err != nil {
		return f() // a mount point that is removed is unmounted everywhere
	}
	hosts := fmt.Sprintf("/proc/%d/ns/mnt", pid)
	var theirs, ours unix.Stat_t
	err = errors.Join(unix.Stat(hosts, &theirs), unix.Stat("/proc/self/ns/mnt", &ours))
	if err != nil || theirs.Ino == ours.Ino && theirs.Dev == ours.Dev {
		return f() // where that is wrong the container does not start
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- enterHost(hosts, f)
	}()
	return <-done
}

func enterHost(namespace string, f func() error) error {
	ns, err := os.Open(namespace)
	if err != nil {
		return fmt.Errorf("open the daemon's mount namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a thread that shares its root can't go elsewhere
		return fmt.Errorf("leave this process' root: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the daemon's mount namespace: %w", err)
	}
	return f()
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
