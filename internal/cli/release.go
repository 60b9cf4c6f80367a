package cli

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

type releaseCmd struct {
	ID string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
}

func (*releaseCmd) Help() string {
	return "A job that was submitted with --hold keeps its sandbox when its command fails, and with it the room that it takes on its host. This gives both back before the time is over. A job that is not held stays as it is.\n\n" +
		usage("nimbus release last")
}

func (c *releaseCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	if j.State != nimbus.StateFinished {
		return nimbus.Errorf(nimbus.CodeConflict, "the job is %s: it is not held", j.State).WithHint("nimbus cancel %s stops it", j.ID)
	}
	held := !j.HeldUntil.IsZero()
	if j, err = cl.Release(ctx, j.ID); err != nil {
		return fmt.Errorf("release the job: %w", err)
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Job jobView `json:"job"`
		}{viewJob(j)})
	}
	if held {
		a.info("the sandbox of %s is given up", j.ID)
	} else {
		a.info("%s is not held", j.ID)
	}
	return nil
}
