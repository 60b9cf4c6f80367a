// Package choice is the driver of a host: the monitor that its operator asked
// for, or the best that really runs guests there. Machines of the other one,
// left by an agent that was told otherwise, are reached all the same.
package choice

import (
	"context"
	"net"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
)

// Auto is Firecracker where it runs guests, QEMU elsewhere.
const Auto = "auto"

// Firecracker is a driver that knows its machines by their folders.
type Firecracker interface {
	vmm.Snapshotter
	vmm.Keeper
	Made(dir string) bool
}

// Driver implements vmm.Snapshotter and vmm.Keeper.
type Driver struct {
	asked       string
	qemu        vmm.Snapshotter
	firecracker Firecracker

	mu     sync.Mutex
	chosen vmm.Snapshotter // once there is one that works, for as long as the process lives
	caps   vmm.Caps
}

// New returns the driver. asked is Auto, qemu.Name or firecracker.Name.
func New(asked string, q vmm.Snapshotter, f Firecracker) (*Driver, error) {
	switch asked {
	case Auto, qemu.Name, firecracker.Name:
		return &Driver{asked: asked, qemu: q, firecracker: f}, nil
	}
	return nil, nimbus.Errorf(nimbus.CodeInvalid, "there is no monitor %q", asked).
		WithHint("--vmm takes %s, %s or %s", Auto, qemu.Name, firecracker.Name)
}

// Probe tries what was asked for. What works stays chosen: all that the agent
// makes and saves is one monitor's.
func (d *Driver) Probe(ctx context.Context) (vmm.Caps, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.chosen != nil {
		return d.caps, nil
	}
	instead := errTold
	if d.asked != qemu.Name {
		caps, err := d.firecracker.Probe(ctx)
		if err == nil {
			d.chosen, d.caps = d.firecracker, caps
			return caps, nil
		}
		if d.asked == firecracker.Name || ctx.Err() != nil {
			return vmm.Caps{}, err
		}
		instead = err
	}
	caps, err := d.qemu.Probe(ctx)
	if err != nil {
		return vmm.Caps{}, err
	}
	caps.Instead = instead
	d.chosen, d.caps = d.qemu, caps
	return caps, nil
}

// errTold is why Firecracker isn't used where nobody looked for it.
var errTold error = nimbus.Errorf(nimbus.CodeUnavailable, "this host was told to use QEMU").WithHint("start its agent with --vmm auto")

// Command is the chosen monitor's.
func (d *Driver) Command(m vmm.Machine) ([]string, error) {
	chosen, err := d.get()
	if err != nil {
		return nil, err
	}
	return chosen.Command(m)
}

// Boot is the chosen monitor's.
func (d *Driver) Boot(ctx context.Context, m vmm.Machine) error {
	chosen, err := d.get()
	if err != nil {
		return err
	}
	return chosen.Boot(ctx, m)
}

// Restore is the chosen monitor's.
func (d *Driver) Restore(ctx context.Context, m vmm.Machine) error {
	chosen, err := d.get()
	if err != nil {
		return err
	}
	return chosen.Restore(ctx, m)
}

func (d *Driver) get() (vmm.Snapshotter, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.chosen == nil {
		return nil, nimbus.Errorf(nimbus.CodeUnavailable, "no monitor has been probed")
	}
	return d.chosen, nil
}

// of is the driver of the machine in dir.
func (d *Driver) of(dir string) vmm.Snapshotter {
	if d.firecracker.Made(dir) {
		return d.firecracker
	}
	return d.qemu
}

// Dial connects to a guest of either monitor.
func (d *Driver) Dial(ctx context.Context, dir string) (net.Conn, error) {
	return d.of(dir).Dial(ctx, dir)
}

// Pause stops a machine of either monitor.
func (d *Driver) Pause(ctx context.Context, dir string) error { return d.of(dir).Pause(ctx, dir) }

// Resume lets a machine of either monitor run.
func (d *Driver) Resume(ctx context.Context, dir string) error { return d.of(dir).Resume(ctx, dir) }

// Snapshot saves a machine of either monitor.
func (d *Driver) Snapshot(ctx context.Context, dir, into string) (vmm.Snapshot, error) {
	return d.of(dir).Snapshot(ctx, dir, into)
}

// Moving is for Firecracker's machines; QEMU keeps nothing.
func (d *Driver) Moving(from, to string) error { return d.firecracker.Moving(from, to) }

// Clear is for Firecracker's machines; QEMU leaves nothing.
func (d *Driver) Clear(dir string) error { return d.firecracker.Clear(dir) }

var (
	_ vmm.Snapshotter = (*Driver)(nil)
	_ vmm.Keeper      = (*Driver)(nil)
)
