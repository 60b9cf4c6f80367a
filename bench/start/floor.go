package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/snapshot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// firstByte talks to a guest until its job has said something.
func firstByte(ctx context.Context, conn net.Conn, token string, network *nimbusv1.NetworkConfig) error {
	c := guestlink.NewClient(conn, token)
	defer c.Close()
	entropy := make([]byte, 64)
	rand.Read(entropy)
	_, err := c.Prepare(ctx, connect.NewRequest(&nimbusv1.PrepareRequest{Now: timestamppb.Now(), Entropy: entropy, Hostname: "bench", Network: network}))
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	_, err = c.Start(ctx, connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: []string{"/bin/sh", "-c", "echo x"}}))
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	events, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1}))
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer events.Close()
	for events.Receive() {
		if len(events.Msg().GetOutput().GetData()) > 0 {
			return nil
		}
	}
	return fmt.Errorf("the job said nothing: %w", events.Err())
}

// floor starts QEMU by hand. Its network is made before, its disk is reused.
type floor struct {
	driver   vmm.Snapshotter
	executor *microvm.Executor
	class    nimbus.Class
	slots    *netslot.Manager
	slot     netslot.Slot
	dir      string // of the executor
	own      string // where QEMU works
	from     snapshot.Snapshot
}

const floorSlot = "floor"

func newFloor(ctx context.Context, cfg microvm.Config, e *microvm.Executor, class nimbus.Class) (*floor, error) {
	driver, ok := cfg.Driver.(vmm.Snapshotter)
	if !ok {
		return nil, errors.New("the monitor saves no machines")
	}
	f := &floor{driver: driver, executor: e, class: class, dir: cfg.Dir, own: filepath.Join(cfg.Dir, "floor"), slots: netslot.New(netslot.Config{Owner: cfg.Owner})}
	if err := os.MkdirAll(f.own, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	var err error
	f.slot, err = f.slots.Create(ctx, floorSlot, netslot.ReachOf(class))
	return f, err
}

func (f *floor) close(ctx context.Context) {
	if err := f.slots.Remove(ctx, floorSlot); err != nil {
		fmt.Fprintln(os.Stderr, "bench-start:", err)
	}
}

// machines is where those are that wait.
func (f *floor) machines() string { return filepath.Join(f.dir, "machines") }

func (f *floor) save(ctx context.Context) (err error) {
	fmt.Fprintln(os.Stderr, "save a machine")
	f.from, err = f.executor.EnsureSnapshot(ctx, f.class)
	return err
}

// command is QEMU's process for a machine, not started yet.
func (f *floor) command(ctx context.Context, from *vmm.Snapshot, parameters, disk string) (*exec.Cmd, vmm.Machine, error) {
	img := filepath.Join(".cache", "images", f.class.Image)
	root, err := filepath.Abs(img)
	initrds, globErr := filepath.Glob(filepath.Join(f.dir, "initrd-*.cpio"))
	if err := errors.Join(err, globErr); err != nil || len(initrds) == 0 {
		return nil, vmm.Machine{}, fmt.Errorf("find what the executor boots: %w", err)
	}
	m := vmm.Machine{
		Dir: f.own, CPUs: f.class.CPUs, MemoryMiB: f.class.MemoryMiB, From: from, Parameters: parameters,
		Kernel: filepath.Join(root, "vmlinux"), Initrd: initrds[0],
		Disks:  []vmm.Disk{{Path: filepath.Join(root, "root.squashfs"), ReadOnly: true}, {Path: disk}},
		Device: &vmm.Device{Tap: netslot.TapName, MAC: netslot.GuestMAC},
	}
	args, err := f.driver.Command(m)
	if err != nil {
		return nil, m, err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + f.slot.Netns, "--"}, args...)...)
	cmd.Dir = f.own
	return cmd, m, nil
}

// talk dials until the guest answers, and has its first byte.
func (f *floor) talk(ctx context.Context) error {
	for {
		raw, err := f.driver.Dial(ctx, f.own)
		if err == nil {
			conn, err := guestlink.Dial(ctx, raw)
			if err != nil {
				return err
			}
			return firstByte(ctx, conn, "", nil)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		}
	}
}

// copyDisk makes a disk, before the time begins.
func (f *floor) copyDisk(ctx context.Context, from string) (string, error) {
	disk := filepath.Join(f.own, "disk")
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", from, disk).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy disk: %w: %s", err, out)
	}
	if err := os.Chmod(disk, 0o600); err != nil {
		return "", fmt.Errorf("copy disk: %w", err)
	}
	return disk, nil
}

// cold boots.
func (f *floor) cold(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	disks, err := filepath.Glob(filepath.Join(f.dir, "empty-*"))
	if err != nil || len(disks) == 0 {
		return 0, fmt.Errorf("find the empty disk: %w", err)
	}
	disk, err := f.copyDisk(ctx, disks[0])
	if err != nil {
		return 0, err
	}
	cmd, _, err := f.command(ctx, nil, "nimbus.root=/dev/vda nimbus.rootfs=squashfs nimbus.rw=/dev/vdb", disk)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start QEMU: %w", err)
	}
	defer f.end(cmd)
	err = f.talk(ctx)
	return time.Since(began), err
}

// restored makes a machine of the snapshot; where that is to wait, the time
// begins when it is done.
func (f *floor) restored(ctx context.Context, waits bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	from := &vmm.Snapshot{Monitor: f.from.Monitor, State: f.from.Path(snapshot.StateFile), Memory: f.from.Path(snapshot.MemoryFile)}
	disk, err := f.copyDisk(ctx, f.from.Path(snapshot.DiskFile))
	if err != nil {
		return 0, err
	}
	cmd, m, err := f.command(ctx, from, f.from.Parameters, disk)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start QEMU: %w", err)
	}
	defer f.end(cmd)
	if err := f.driver.Restore(ctx, m); err != nil {
		return 0, err
	}
	if waits {
		began = time.Now()
	}
	if err := f.driver.Resume(ctx, f.own); err != nil {
		return 0, err
	}
	err = f.talk(ctx)
	return time.Since(began), err
}

func (f *floor) end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // gone already is fine
	_ = cmd.Wait()
	for _, name := range []string{"port.sock", "qmp.sock", "disk"} {
		os.Remove(filepath.Join(f.own, name))
	}
}
