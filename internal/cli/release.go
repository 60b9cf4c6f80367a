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
	return "A job that was submitted with --hold keeps its sandbox when its command fails, and with it the room that it takes on its host. This gives both back before the time is over. Of a job that is not held there is nothing to give back: that is a conflict.\n\n" +
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
	if err := notHeld(j); err != nil {
		return err
	}
	if j, err = cl.Release(ctx, j.ID); err != nil {
		return fmt.Errorf("release the job: %w", err)
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Job jobView `json:"job"`
		}{viewJob(j)})
	}
	a.info("the sandbox of %s is given up", j.ID)
	return nil
}

// notHeld tells why a job has no sandbox to give up, nil where it has one.
func notHeld(j nimbus.Job) error {
	switch {
	case j.State != nimbus.StateFinished:
		return nimbus.Errorf(nimbus.CodeConflict, "the job is %s: it is not held", j.State).WithHint("nimbus cancel %s stops it", j.ID)
	case j.HeldUntil.IsZero():
		return nimbus.Errorf(nimbus.CodeConflict, "%s is not held: it never was, or its sandbox is given up", j.ID).
			WithHint("nimbus run --hold keeps the sandbox of a job that fails")
	}
	return nil
}
