package cli

import "context"

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
	a.info("%s is %s", j.ID, status(a.errStyle, j))
	return nil
}
