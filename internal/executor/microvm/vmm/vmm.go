// Package vmm is the contract between the microVM executor and the virtual
// machine monitors that it can use, one per sub-package.
package vmm

import (
	"context"
	"encoding/json"
	"net"

	"github.com/nimbus-ci/nimbus"
)

// Driver knows one monitor. It starts nothing itself: the process belongs to
// the sandbox's shim. Its methods are safe for concurrent use.
type Driver interface {
	// Probe tells whether this machine can run the monitor, by trying what can
	// only be known by trying. It ends within ctx; its error says in one
	// sentence what is missing, as a *nimbus.Error with a hint.
	Probe(ctx context.Context) (Caps, error)
	// Command lays what the monitor needs into m's folder and is the command
	// line that starts it. It is run in that folder, inside the network namespace
	// of m's device. What it writes to stdout and stderr is the guest's console.
	Command(m Machine) ([]string, error)
	// Boot makes m run, once Command's process does. It is not called for a
	// machine that is made of a snapshot: see Snapshotter.
	Boot(ctx context.Context, m Machine) error
	// Dial connects to the guest of the machine in dir, and returns once that
	// has answered. A new connection may end the one before; any may break at any
	// byte.
	Dial(ctx context.Context, dir string) (net.Conn, error)
}

// Keeper is a Driver that keeps something of a machine besides its process.
type Keeper interface {
	// Moving is called before the folder of a machine, which may run, gets
	// another path.
	Moving(from, to string) error
	// Clear removes what Command laid into the folder of a machine that has
	// ended. There may be nothing.
	Clear(dir string) error
}

// Snapshotter is a Driver that can save machines and make others of what it saved.
type Snapshotter interface {
	Driver
	// Restore makes m of m.From, once Command's process runs, and leaves it
	// paused.
	Restore(ctx context.Context, m Machine) error
	// Pause stops the processors of the machine in dir; Resume lets them run.
	// Either does nothing to a machine that is in that state.
	Pause(ctx context.Context, dir string) error
	Resume(ctx context.Context, dir string) error
	// Snapshot saves the paused machine in dir into an empty folder. The
	// machine's disks are not part of it: they are copied before it runs again.
	Snapshot(ctx context.Context, dir, into string) (Snapshot, error)
}

// Snapshot is a machine that was saved. Nothing changes its files as long as a
// machine lives that was made of it.
type Snapshot struct {
	// Monitor is what saved it, as Caps.Version has it: no other may restore it.
	Monitor string
	State   string // path of what the monitor knows
	Memory  string // path of the guest's memory
	// WorkingSet is the path of a list of the pages that a restored machine
	// needs first; the first one writes it.
	WorkingSet string
}

// Caps is what a monitor can do on this machine.
type Caps struct {
	// Monitor is its name, as snapshots have it: "qemu", "firecracker".
	Monitor string
	// Instead is why the machines aren't another monitor's that was looked for
	// first; nil where none was.
	Instead error
	// Version in words, "QEMU 7.2.22".
	Version string
	// Accelerated tells that guests run on the processor itself; false means
	// that every instruction is emulated, tens of times slower.
	Accelerated bool
	// Processor is what a guest's processor has of the words avx2, avx512 and amx.
	Processor nimbus.Capabilities
	// Overhead is the memory that a machine needs beside the guest's own.
	OverheadMiB int
	// Namespaces tells that the monitor is to be started in process and mount
	// namespaces of its own.
	Namespaces bool
}

// Machine is a virtual machine to be made.
type Machine struct {
	// ID names it: nothing else on this host has it.
	ID string
	// Dir is its own folder.
	Dir string
	// From is what it is made of again; nil boots it. All that follows is as it
	// was when that was saved, but for the paths.
	From *Snapshot
	// Savable tells that it is booted to be saved: monitors that share memory
	// between machines need to know before.
	Savable   bool
	CPUs      int
	MemoryMiB int
	Kernel    string // uncompressed ELF
	Initrd    string
	// Parameters are added to the kernel's command line. Anybody in the guest
	// can read them.
	Parameters string
	// Disks appear as /dev/vda, /dev/vdb, … in this order.
	Disks []Disk
	// Device is the network device, nil for none.
	Device *Device
	// Metadata is an object that the guest can ask for over its network device,
	// where the monitor has such a service; nil for none.
	Metadata json.RawMessage
}

// Disk is a raw file.
type Disk struct {
	Path     string
	ReadOnly bool
	Rate     Rate
}

// Rate bounds a device; zero is no bound.
type Rate struct {
	BytesPerSecond, OpsPerSecond int64
}

// Device is a network device of the machine, backed by a tap that exists.
type Device struct {
	Tap  string
	MAC  string
	Rate Rate // in each direction
	// Netns is the path of the network namespace that the tap is in, "" for ours.
	Netns string
}
