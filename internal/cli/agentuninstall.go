package cli

import (
	"context"
	"os"
	"path/filepath"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/systemd"
)

type agentUninstallCmd struct {
	Root  string `help:"Take it out of the machine whose root is this folder." default:"/" type:"path" placeholder:"DIR"`
	Purge bool   `help:"Remove its settings, its data with images and snapshots, and the program too."`
	Force bool   `help:"Though jobs run here: they end by themselves when their time is over, and their results are lost."`
}

func (*agentUninstallCmd) Help() string {
	return `Stops the service and removes it. A host on which jobs run is left as it is: drain it first. The control plane knows the host until it is removed there.

` + usage("nimbus hosts drain HOST && sudo nimbus agent uninstall", "nimbus agent uninstall --purge --json")
}

func (c *agentUninstallCmd) Run(ctx context.Context, a *app) error {
	jobs, err := os.ReadDir(filepath.Join(c.Root, systemd.Data, "agent", "attempts"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if len(jobs) > 0 && !c.Force {
		return nimbus.Errorf(nimbus.CodeConflict, "%d jobs run on this machine", len(jobs)).
			WithHint("nimbus hosts drain HOST, and wait until none does; or --force")
	}
	gone, err := systemd.Remove(ctx, c.Root, c.Purge)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Removed []string `json:"removed"`
		}{append([]string{}, gone...)})
	}
	if len(gone) == 0 {
		a.info("nothing was installed")
	}
	for _, path := range gone {
		a.info("removed %s", path)
	}
	return nil
}
