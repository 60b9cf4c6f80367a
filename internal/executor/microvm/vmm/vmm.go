// Package vmm is the contract between the microVM executor and the virtual
// machine monitors that it can use, one per sub-package.
package vmm

import (
	"context"
	"net"
)

// Driver knows one monitor. It starts nothing itself: the process belongs to
// the sandbox's shim. Its methods are safe for concurrent use.
type Driver interface {
	// Probe tells whether this machine can run the monitor, by trying what can
	// only be known by trying. It ends within ctx; its error says in one
	// sentence what is missing, as a *nimbus.Error with a hint.
	Probe(ctx context.Context) (Caps, error)
	// Command is the command line that boots m. It is run in m's directory,
	// inside the network namespace of m's device. What it writes to stdout and
	// stderr is the guest's console.
	Command(m Machine) ([]string, error)
	// Dial opens the byte stream to the guest's port of the machine in dir. One
	// connection at a time gets through; it may break at any byte.
	Dial(ctx context.Context, dir string) (net.Conn, error)
}

// Caps is what a monitor can do on this machine.
type Caps struct {
	// Version in words, "QEMU 7.2.22".
	Version string
	// Accelerated tells that guests run on the processor itself; false means
	// that every instruction is emulated, tens of times slower.
	Accelerated bool
	// Overhead is the memory that a machine needs beside the guest's own.
	OverheadMiB int
}

// Machine is a virtual machine to be booted.
type Machine struct {
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
}

// Disk is a raw file.
type Disk struct {
	Path     string
	ReadOnly bool
}

// Device is a network device of the machine, backed by a tap that exists.
type Device struct {
	Tap string
	MAC string
}
