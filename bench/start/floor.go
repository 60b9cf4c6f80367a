package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/snapshot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
)

// floor starts QEMU by hand: the same command line with the same kernel,
// initrd, root, memory and state, and the same guest that is asked the same. Its
// network and its disk are made before the time begins.
type floor struct {
	driver   vmm.Snapshotter
	executor *microvm.Executor
	class    nimbus.Class
	slots    *netslot.Manager
	slot     netslot.Slot
	name     string
	dir      string // of the executor
	own      string // where QEMU works
	group    string // its cgroup, "" for none
	from     snapshot.Snapshot
	parts    *parts
}

func newFloor(ctx context.Context, cfg microvm.Config, e *microvm.Executor, class nimbus.Class, name string) (*floor, error) {
	driver, ok := cfg.Driver.(vmm.Snapshotter)
	if !ok {
		return nil, errors.New("the monitor saves no machines")
	}
	f := &floor{driver: driver, executor: e, class: class, name: name, dir: cfg.Dir, own: filepath.Join(cfg.Dir, "by-hand", name), slots: netslot.New(netslot.Config{Owner: cfg.Owner})}
	if err := os.MkdirAll(f.own, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	var err error
	if f.group, err = makeGroup(cfg.Owner + "-" + name); err != nil {
		return nil, err
	}
	f.slot, err = f.slots.Create(ctx, f.name, netslot.ReachOf(class))
	return f, err
}

func (f *floor) close(ctx context.Context) {
	err := f.slots.Remove(ctx, f.name)
	if f.group != "" {
		err = errors.Join(err, os.Remove(f.group))
	}
	if err != nil {
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

// network is what the executor tells its guests.
func (*floor) network() *nimbusv1.NetworkConfig {
	return &nimbusv1.NetworkConfig{
		Device: "eth0", Address: netslot.Guest.String(), Gateway: netslot.Gateway.String(),
		Hosts: map[string]string{microvm.GatewayName: netslot.Gateway.String()},
	}
}

// dial dials until the guest answers.
func (f *floor) dial(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := f.driver.Dial(ctx, f.own)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, ctx.Err())
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
	ctx, cancel := context.WithTimeout(ctx, patience)
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
	l := f.parts.begin("by hand, cold")
	if err := f.begin(cmd); err != nil {
		return 0, err
	}
	defer f.end(cmd)
	conn, err := f.dial(ctx)
	if err != nil {
		return 0, err
	}
	l.lap("guest")
	err = firstByte(ctx, conn, "", f.network(), l)
	return l.took(), err
}

// restore makes a machine of the snapshot, paused, and leaves it to the caller
// to end it.
func (f *floor) restore(ctx context.Context, l *laps) (*exec.Cmd, error) {
	from := &vmm.Snapshot{Monitor: f.from.Monitor, State: f.from.Path(snapshot.StateFile), Memory: f.from.Path(snapshot.MemoryFile)}
	disk, err := f.copyDisk(ctx, f.from.Path(snapshot.DiskFile))
	if err != nil {
		return nil, err
	}
	cmd, m, err := f.command(ctx, from, f.from.Parameters, disk)
	if err != nil {
		return nil, err
	}
	l.restart()
	if err := f.begin(cmd); err != nil {
		return nil, err
	}
	l.lap("monitor")
	if err := f.driver.Restore(ctx, m); err != nil {
		f.end(cmd)
		return nil, err
	}
	l.lap("restore")
	return cmd, nil
}

// restored makes a machine of the snapshot for a job, and returns what ends it.
func (f *floor) restored(ctx context.Context) (took time.Duration, remove func() error, err error) {
	l := f.parts.begin("by hand, restored")
	cmd, err := f.restore(ctx, l)
	if err != nil {
		return 0, nil, err
	}
	remove = func() error { f.end(cmd); return nil }
	defer func() {
		if err != nil {
			f.end(cmd)
		}
	}()
	if err := f.driver.Resume(ctx, f.own); err != nil {
		return 0, nil, err
	}
	l.lap("resume")
	conn, err := f.dial(ctx)
	if err != nil {
		return 0, nil, err
	}
	l.lap("guest")
	err = firstByte(ctx, conn, "", f.network(), l)
	return l.took(), remove, err
}

// warm has a machine ready as the pool has: it has gone through a rehearsal and
// is paused with a connection to its guest. The time begins then.
func (f *floor) warm(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	l := f.parts.begin("by hand, warm")
	cmd, err := f.restore(ctx, f.parts.begin("by hand, before it waits"))
	if err != nil {
		return 0, err
	}
	defer f.end(cmd)
	if err := f.driver.Resume(ctx, f.own); err != nil {
		return 0, err
	}
	conn, err := f.dial(ctx)
	if err != nil {
		return 0, err
	}
	if err := rehearse(ctx, conn, f.network()); err != nil {
		return 0, err
	}
	if conn, err = f.dial(ctx); err != nil {
		return 0, err
	}
	if err := f.driver.Pause(ctx, f.own); err != nil {
		return 0, err
	}
	l.restart()
	if err := f.driver.Resume(ctx, f.own); err != nil {
		return 0, err
	}
	l.lap("resume")
	err = firstByte(ctx, conn, "", f.network(), l)
	return l.took(), err
}

// begin starts QEMU. It runs beside the executor's machines, with as much of the
// processors where they have to be shared, and without limits.
func (f *floor) begin(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	if f.group == "" {
		return nil
	}
	err := os.WriteFile(filepath.Join(f.group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0)
	if err != nil {
		f.end(cmd)
		return fmt.Errorf("group QEMU: %w", err)
	}
	return nil
}

// groups is where the executor's machines have their share of the processors.
func groups() []string {
	return []string{"/sys/fs/cgroup/cpu/nimbus", "/sys/fs/cgroup/cpu,cpuacct/nimbus", "/sys/fs/cgroup/nimbus"}
}

// makeGroup makes a group like an executor's machine has, where it has any.
func makeGroup(name string) (string, error) {
	for _, parent := range groups() {
		if _, err := os.Stat(filepath.Join(parent, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(parent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("make a group: %w", err)
		}
		return dir, nil
	}
	return "", nil
}

func (f *floor) end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // gone already is fine
	_ = cmd.Wait()
	for _, name := range []string{"port.sock", "qmp.sock", "disk"} {
		os.Remove(filepath.Join(f.own, name))
	}
}
