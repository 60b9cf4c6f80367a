package cli

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type limitsCmd struct {
	List limitsListCmd `cmd:"" default:"withargs" help:"Show how many jobs may be on hosts at once."`
	Set  limitsSetCmd  `cmd:"" help:"Bound how many jobs may be on hosts at once."`
	Rm   limitsRmCmd   `cmd:"" help:"Take a limit away."`
}

// limitArgs name a limit.
type limitArgs struct {
	Kind string `arg:"" help:"What it counts: ${enum}." enum:"org,repo,label"`
	Name string `arg:"" optional:"" help:"Of the repository, OWNER/NAME, or the label."`
}

type limitsListCmd struct{}

func (*limitsListCmd) Help() string {
	return usage("nimbus limits", "nimbus limits --json | jq .limits")
}

func (*limitsListCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	return a.printLimits(ctx, cl)
}

type limitsSetCmd struct {
	limitArgs
	Most int `within:"0..1000000" required:"" help:"How many jobs at most. 0 keeps them all waiting." placeholder:"N"`
}

func (*limitsSetCmd) Help() string {
	return "Jobs that are on hosts already go on and are not counted.\n\n" +
		usage("nimbus limits set org --most 100", "nimbus limits set repo octo/hello --most 10", "nimbus limits set label gpu-count:8 --most 2")
}

func (c *limitsSetCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.SetLimit(ctx, nimbus.LimitKind(c.Kind), c.Name, c.Most); err != nil {
		return err
	}
	return a.printLimits(ctx, cl)
}

type limitsRmCmd struct{ limitArgs }

func (*limitsRmCmd) Help() string {
	return usage("nimbus limits rm org", "nimbus limits rm repo octo/hello", "nimbus limits rm label gpu-count:8")
}

func (c *limitsRmCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.DeleteLimit(ctx, nimbus.LimitKind(c.Kind), c.Name); err != nil {
		return err
	}
	return a.printLimits(ctx, cl)
}

type limitView struct {
	Kind nimbus.LimitKind `json:"kind"`
	Name string           `json:"name,omitempty"`
	Most int              `json:"most"`
	Used int              `json:"used"`
}

func (a *app) printLimits(ctx context.Context, cl *client.Client) error {
	limits, err := cl.Limits(ctx)
	if err != nil {
		return err
	}
	v := struct {
		Limits []limitView `json:"limits"`
	}{Limits: []limitView{}}
	var rows []string
	for _, l := range limits {
		v.Limits = append(v.Limits, limitView{Kind: l.Kind, Name: l.Name, Most: l.Most, Used: l.Used})
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d\t%d", l.Kind, terminal.OneLine(l.Name), l.Used, l.Most))
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	if len(rows) == 0 {
		a.info("no limits")
		return nil
	}
	return a.table("KIND\tNAME\tUSED\tMOST", rows)
}
