package cli

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type snapshotsCreateCmd struct {
	snapshotsFlags

	Image     string `arg:"" optional:"" default:"runner" help:"Which image."`
	CPUs      int    `within:"1..512" name:"cpus" help:"How many CPUs the machines have." default:"1" placeholder:"N"`
	MemoryMiB int    `within:"1..4194304" name:"memory" help:"How much memory they have, in MiB." default:"1024" placeholder:"MIB"`
}

func (*snapshotsCreateCmd) Help() string {
	return `Jobs of that image and size get machines that are made of the snapshot, which takes a fraction of a boot. A snapshot is bound to this machine and to all that it was made of; one that fits is left as it is, one that does not is replaced. An agent with --warm does this by itself for what jobs ask for. It needs root, as the agent does.

` + usage("sudo nimbus snapshots create", "sudo nimbus snapshots create runner --cpus 2 --memory 4096 --json")
}

func (c *snapshotsCreateCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	class, err := nimbus.Class{Executor: nimbus.ExecutorMicroVM, Image: c.Image, CPUs: c.CPUs, MemoryMiB: c.MemoryMiB}.Complete()
	if err != nil {
		return err
	}
	e, unlock, err := c.executor(a)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := e.Sweep(ctx, func() []string { return nil }); err != nil { // what a command before left that was killed
		return err
	}
	done := terminal.Progress(a.Err, func() string { return "boot " + c.Image + " to save it" })
	s, err := e.EnsureSnapshot(ctx, class)
	done()
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(viewSnapshot(s))
	}
	a.info("%s is ready, %d MiB on disk", s.Name(), s.DiskUse()>>20)
	return nil
}
