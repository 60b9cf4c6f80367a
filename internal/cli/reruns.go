package cli

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

type rerunsCmd struct {
	Show rerunsShowCmd `cmd:"" default:"withargs" help:"Show whether lost jobs are run again by themselves."`
	Set  rerunsSetCmd  `cmd:"" help:"Have lost jobs run again, within bounds."`
	Off  rerunsOffCmd  `cmd:"" help:"Have nothing run again by itself."`
}

type rerunsShowCmd struct{}

func (*rerunsShowCmd) Help() string { return usage("nimbus reruns", "nimbus reruns --json") }

func (*rerunsShowCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	return a.printReruns(ctx, cl)
}

type rerunsSetCmd struct {
	PerRun  int `within:"0..10" default:"1" help:"How often at most for one workflow run." placeholder:"N"`
	PerHour int `within:"0..1000" default:"20" help:"How often at most within an hour, for the org." placeholder:"N"`
}

func (*rerunsSetCmd) Help() string {
	return `A job of GitHub's that is lost with its host or sandbox is run again by GitHub once its run is over. Jobs that failed by themselves, or were cancelled, never are. The GitHub App needs actions:write.

` + usage("nimbus reruns set", "nimbus reruns set --per-run 2 --per-hour 50")
}

func (c *rerunsSetCmd) Run(ctx context.Context, a *app) error {
	return a.setReruns(ctx, nimbus.RerunPolicy{PerRun: c.PerRun, PerHour: c.PerHour})
}

type rerunsOffCmd struct{}

func (*rerunsOffCmd) Help() string { return usage("nimbus reruns off") }

func (*rerunsOffCmd) Run(ctx context.Context, a *app) error {
	return a.setReruns(ctx, nimbus.RerunPolicy{})
}

func (a *app) setReruns(ctx context.Context, p nimbus.RerunPolicy) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.SetRerunPolicy(ctx, p); err != nil {
		return err
	}
	return a.printReruns(ctx, cl)
}

func (a *app) printReruns(ctx context.Context, cl *client.Client) error {
	use, err := cl.RerunPolicy(ctx)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			PerRun   int `json:"per_run"`
			PerHour  int `json:"per_hour"`
			LastHour int `json:"last_hour"`
			Waiting  int `json:"waiting"`
		}{use.PerRun, use.PerHour, use.LastHour, use.Waiting})
	}
	if !use.On() {
		fmt.Fprintln(a.Out, "off: nothing is run again by itself")
		return nil
	}
	fmt.Fprintf(a.Out, "on: %d a run, %d an hour; %d within the last hour, %d wait for their run to end\n", use.PerRun, use.PerHour, use.LastHour, use.Waiting)
	return nil
}
