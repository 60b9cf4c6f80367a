// Package firecracker runs microVMs with Firecracker: each monitor in a jail of
// its own, told what to do over a socket in the jail.
package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/jailer"
)

// Name is the monitor's, in PATH and elsewhere.
const Name = "firecracker"

// Users that monitors run as, where Config says nothing: a range that no Linux
// distribution gives to people, services or containers by default.
const (
	firstUID = 1_900_000_000
	countUID = 4096
)

// Config is what the driver needs.
type Config struct {
	// Dir keeps which users are taken, and copies of what jails share. It is on the
	// file system of the machines' folders.
	Dir string
	// Firecracker and Jailer are the programs, of one release. "" looks in PATH.
	Firecracker, Jailer string
	// Shim is the path of nimbus-shim, which serves the memory of restored
	// machines. "" has the kernel map it from the file.
	Shim string
	// FirstUID is the first of UIDs user ids that belong to nobody else.
	FirstUID, UIDs int
	// Trial is the guest that Probe runs: TrialStrict, but for tests.
	Trial Trial
	// BalloonStats is how often guests report their memory, in seconds; 0 is
	// never.
	BalloonStats int
}

// Driver implements vmm.Snapshotter.
type Driver struct {
	cfg   Config
	users jailer.Users
	shelf shelf

	mu     sync.Mutex
	found  found
	probed bool
	caps   vmm.Caps
	err    error
}

// New returns the driver.
func New(cfg Config) *Driver {
	if cfg.UIDs == 0 {
		cfg.FirstUID, cfg.UIDs = firstUID, countUID
	}
	return &Driver{
		cfg: cfg, users: jailer.Users{Dir: filepath.Join(cfg.Dir, "users"), First: cfg.FirstUID, Count: cfg.UIDs},
		shelf: shelf{dir: filepath.Join(cfg.Dir, "shelf")},
	}
}

// Names in a jail. A snapshot has them in it, so they are the same in each.
const (
	apiSocket   = "api.sock"
	vsockSocket = "v.sock"
	pagesSocket = "pages.sock"
	kernelFile  = "kernel"
	initrdFile  = "initrd"
	stateFile   = "state"
	memoryFile  = "memory"
)

// jailDir is the folder with the jail, in a machine's own.
const jailDir = "jail"

// pagesFile is the page server's spec, in a machine's folder.
const pagesFile = "pages.json"

// openFiles is how many files a monitor may have open: its devices', and 1023
// connections through vsock.
const openFiles = 2048

// Command makes the jail and is the jailer's command line, below a page server
// when the machine is made of a snapshot.
func (d *Driver) Command(m vmm.Machine) ([]string, error) {
	d.mu.Lock()
	found, probed := d.found, d.probed && d.err == nil
	d.mu.Unlock()
	if !probed {
		return nil, errors.New("firecracker has not been probed")
	}
	uid, err := d.users.Take(m.Dir)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(m.Dir, jailDir)
	jail := jailer.Jail{
		ID: jailer.ID(m.ID), Base: base, Exec: found.firecracker, UID: uid, GID: uid,
		Limits: jailer.Limits{OpenFiles: openFiles},
		Args:   []string{"--api-sock", "/" + apiSocket, "--level", "Error"},
	}
	args, err := jail.Command(found.jailer)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(base); err != nil { // what an earlier try has left
		return nil, fmt.Errorf("make jail: %w", err)
	}
	if err := d.lay(jail.Root(), m); err != nil {
		return nil, err
	}
	if m.Device != nil {
		if err := jailer.GiveTap(m.Device.Netns, m.Device.Tap, uid, uid); err != nil {
			return nil, err
		}
	}
	if m.From != nil && d.cfg.Shim != "" {
		return d.servePages(jail.Root(), m, args)
	}
	return args, nil
}

// lay puts the machine's files into its jail.
func (d *Driver) lay(root jailer.Root, m vmm.Machine) error {
	if err := root.Make(); err != nil {
		return err
	}
	if m.From != nil {
		if err := d.laySaved(root, *m.From); err != nil {
			return err
		}
	} else if err := errors.Join(d.share(root, kernelFile, m.Kernel), d.share(root, initrdFile, m.Initrd)); err != nil {
		return err
	}
	for i, disk := range m.Disks {
		put := root.Give
		if disk.ReadOnly {
			put = func(name, path string) error { return d.share(root, name, path) }
		}
		if err := put(driveID(i), disk.Path); err != nil {
			return err
		}
	}
	return nil
}

// laySaved leaves a snapshot's files without a link more: who watches over them
// would take it for a write. The memory stays outside, where its server is.
func (d *Driver) laySaved(root jailer.Root, from vmm.Snapshot) error {
	if err := root.Copy(stateFile, from.State); err != nil {
		return err
	}
	if d.cfg.Shim != "" {
		return nil
	}
	return root.Share(memoryFile, from.Memory)
}

// share lays a file into the jail that others use too; "" is none.
func (d *Driver) share(root jailer.Root, name, path string) error {
	if path == "" {
		return nil
	}
	place, err := d.shelf.get(path)
	if err != nil {
		return err
	}
	return root.Share(name, place)
}

// driveID names the disk that the guest knows as /dev/vda, /dev/vdb, …; it is
// the name of its file in the jail too.
func driveID(i int) string { return fmt.Sprintf("disk%d", i) }

// Made tells whether the machine in dir, which may have ended, is Firecracker's.
func (*Driver) Made(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, jailDir))
	return err == nil
}

// Moving has a machine keep its user wherever its folder goes.
func (d *Driver) Moving(from, to string) error { return d.users.Move(from, to) }

// Clear removes the jail: its disk is the machine's too.
func (*Driver) Clear(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, jailDir)); err != nil {
		return fmt.Errorf("remove jail: %w", err)
	}
	return nil
}

// root finds the jail of the machine in dir.
func root(dir string) (jailer.Root, error) { return jailer.Find(filepath.Join(dir, jailDir)) }

var (
	_ vmm.Snapshotter = (*Driver)(nil)
	_ vmm.Keeper      = (*Driver)(nil)
)

// Probe looks once; what is missing is looked for again at the next call.
func (d *Driver) Probe(ctx context.Context) (vmm.Caps, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.probed || d.err != nil {
		d.found, d.caps, d.err = d.probe(ctx)
		d.probed = ctx.Err() == nil
	}
	return d.caps, d.err
}
