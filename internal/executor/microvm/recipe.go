package microvm

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// recipe is all that a machine of a class is made of but what is its own.
type recipe struct {
	class  nimbus.Class
	img    image.Image
	initrd string
	caps   vmm.Caps
}

// recipe finds what a machine of the class is made of. Its image must be on
// this host.
func (e *Executor) recipe(ctx context.Context, class nimbus.Class) (recipe, error) {
	img, err := e.cfg.Images.Open(class.Image)
	if err != nil {
		return recipe{}, err
	}
	return e.recipeOf(ctx, class, img)
}

func (e *Executor) recipeOf(ctx context.Context, class nimbus.Class, img image.Image) (recipe, error) {
	r := recipe{class: class, img: img}
	err := img.Check(&e.files)
	if err != nil {
		return r, err
	}
	if r.caps, err = e.cfg.Driver.Probe(ctx); err != nil {
		return r, err
	}
	r.initrd, err = e.initrd(r.img)
	return r, err
}

// parameters are those of our own on the kernel's command line.
func (r recipe) parameters() string {
	p := "nimbus.root=/dev/vda nimbus.rootfs=" + image.RootType + " nimbus.rw=/dev/vdb"
	if r.img.Tools() != "" {
		p += " nimbus.tools=/dev/vdc"
	}
	return p
}

// settle is the parameter of a machine that is booted to be saved.
const settle = " nimbus.settle"

// machine is what the monitor is told of a sandbox.
func (r recipe) machine(s *sandbox) vmm.Machine {
	m := vmm.Machine{
		ID: s.machine, Dir: s.dir, CPUs: r.class.CPUs, MemoryMiB: r.class.MemoryMiB,
		Kernel: r.img.Kernel(), Initrd: r.initrd, Parameters: r.parameters(),
		Disks:  []vmm.Disk{{Path: r.img.Root(), ReadOnly: true}, {Path: filepath.Join(s.dir, diskFile)}},
		Device: &vmm.Device{Tap: netslot.TapName, MAC: netslot.GuestMAC, Netns: s.slot.Netns},
	}
	if tools := r.img.Tools(); tools != "" {
		m.Disks = append(m.Disks, vmm.Disk{Path: tools, ReadOnly: true})
	}
	return m
}

// start starts the monitor's process under a shim.
func (e *Executor) start(ctx context.Context, s *sandbox, m vmm.Machine, caps vmm.Caps, deadline time.Duration) error {
	args, err := e.cfg.Driver.Command(m)
	if err != nil {
		return err
	}
	client, err := shim.Start(ctx, e.cfg.Shim, s.dir, shim.Spec{
		Args: args, Netns: s.slot.Netns, Namespaces: caps.Namespaces, Guard: true, Deadline: deadline,
		Cgroup: shim.Cgroup{
			Name:        e.cgroup(s.machine),
			MemoryBytes: int64(m.MemoryMiB+caps.OverheadMiB) << 20,
			CPUs:        float64(m.CPUs), PIDs: maxThreads,
		},
	})
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	s.Shimmed = executor.Shimmed{Shim: client}
	return nil
}
