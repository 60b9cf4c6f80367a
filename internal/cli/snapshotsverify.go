package cli

import (
	"context"
	"errors"
	"slices"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/snapshot"
)

type snapshotsVerifyCmd struct {
	snapshotsFlags

	Names []string `arg:"" optional:"" help:"Which. Default: all on this machine." placeholder:"NAME"`
}

func (*snapshotsVerifyCmd) Help() string {
	return `Reads each snapshot whole, and compares what it was made of with what is here now. Fails with the reasons when one may not be used; the agent makes such a one again by itself.

` + usage("nimbus snapshots verify", "nimbus snapshots verify runner,1cpu,1024MiB --json")
}

func (c *snapshotsVerifyCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	e, unlock, err := c.executor(a)
	if err != nil {
		return err
	}
	defer unlock()
	found, broken, err := e.Snapshots().List()
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		if !slices.ContainsFunc(found, func(s snapshot.Snapshot) bool { return s.Name() == name }) &&
			!slices.ContainsFunc(broken, func(b snapshot.Broken) bool { return b.Folder == name }) {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no snapshot %q", name).WithHint("nimbus snapshots lists them")
		}
	}
	v := struct {
		Snapshots []snapshotView `json:"snapshots"`
	}{Snapshots: []snapshotView{}}
	var refused error
	for _, b := range broken {
		if len(c.Names) == 0 || slices.Contains(c.Names, b.Folder) {
			v.Snapshots = append(v.Snapshots, snapshotView{Name: b.Folder, Refused: b.Why.Error()})
			refused = errors.Join(refused, b.Why)
		}
	}
	for _, s := range found {
		if len(c.Names) > 0 && !slices.Contains(c.Names, s.Name()) {
			continue
		}
		view := viewSnapshot(s)
		now, err := e.Inputs(ctx, nimbus.Class{Image: s.Image, CPUs: s.CPUs, MemoryMiB: s.MemoryMiB})
		if err == nil {
			err = errors.Join(s.Check(now), s.Untouched(), s.Verify(ctx))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			view.Refused = err.Error()
			refused = errors.Join(refused, err)
		} else {
			a.info("%s is what was saved, and fits", s.Name())
		}
		v.Snapshots = append(v.Snapshots, view)
	}
	if a.root.JSON {
		if err := a.printJSON(v); err != nil {
			return err
		}
	}
	return refused
}
