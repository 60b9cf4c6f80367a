package cli

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type cancelCmd struct {
	ID string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
}

func (*cancelCmd) Help() string {
	return "A running command gets SIGTERM first. Cancelling a job that has ended changes nothing.\n\n" + usage("nimbus cancel last")
}

func (c *cancelCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	if j, err = cl.Cancel(ctx, j.ID); err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Job jobView `json:"job"`
		}{viewJob(j)})
	}
	a.info("%s", cancelWords(a.errStyle, j))
	return nil
}

// cancelWords say what became of a job that was to be cancelled: what is not on
// a host has ended by then.
func cancelWords(s terminal.Style, j nimbus.Job) string {
	if j.State == nimbus.StateFinished {
		return j.ID + " is " + status(s, j)
	}
	return fmt.Sprintf("%s is being cancelled, its command is told to end: nimbus job %[1]s tells when it has", j.ID)
}
