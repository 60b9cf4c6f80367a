package cli

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

type rerunCmd struct {
	ID string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
}

func (*rerunCmd) Help() string {
	return "A job of the command line that has ended is run again as a new job, with the same files. A workflow job is run again by GitHub, as the next attempt of its run and with the jobs that need it, once that run is over; the GitHub App needs actions:write. A job that can't start is looked at anew: where something can run it by now, or no attempt of it got to begin, it waits for a host again.\n\n" +
		usage("nimbus rerun last && nimbus logs -f last")
}

func (c *rerunCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	old, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	key := rand.Text()
	j, err := cl.Rerun(ctx, old.ID, key)
	if nimbus.ErrorCode(err) == nimbus.CodeUnavailable && old.Source == nimbus.SourceNative {
		j, err = cl.Rerun(ctx, old.ID, key) // the key makes it safe: the answer may be what was lost
	}
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Job jobView `json:"job"`
		}{viewJob(j)})
	}
	switch {
	case old.State == nimbus.StateUnschedulable:
		a.info("it waits for a host again")
	case j.Source == nimbus.SourceGitHub:
		a.info("GitHub runs it again: %s", j.GitHub.HTMLURL)
	}
	fmt.Fprintln(a.Out, j.ID)
	return nil
}
