package cli

import "context"

type priorityCmd struct {
	ID       string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
	Priority int    `within:"-10..10" arg:"" help:"-10 to 10; higher is sooner."`
}

func (*priorityCmd) Help() string {
	return "It counts among the waiting jobs of the org, and takes nothing from another org. A job that is among the next already keeps its place.\n\n" +
		usage("nimbus priority last 5", "nimbus priority job_01jd8w6j3m5y2x4k7q9r1t3v5z -- -5")
}

func (c *priorityCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	if j, err = cl.SetPriority(ctx, j.ID, c.Priority); err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Job jobView `json:"job"`
		}{viewJob(j)})
	}
	a.info("%s is %s, with priority %d", j.ID, status(a.errStyle, j), j.Priority)
	return nil
}
