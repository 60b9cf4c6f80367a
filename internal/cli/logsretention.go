package cli

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

type logsRetentionCmd struct {
	Days    *int `arg:"" optional:"" within:"0..36500" help:"For how many days, 0 for ever; not given, it is shown."`
	Default bool `help:"Give up what the org has of its own." xor:"whose"`
	All     bool `help:"Say it of all orgs that have none of their own; for administrators of the platform." xor:"whose"`
}

func (*logsRetentionCmd) Help() string {
	return "Logs of attempts whose last line is older are removed within the hour, of attempts that are over; in ClickHouse a log goes so many days after its attempt began, with the day's others. What the org's jobs told by OpenTelemetry is kept no longer, either. Nothing is removed unless somebody said so: the default is for ever. It is for the org's admins to say.\n\n" +
		usage("nimbus logs retention", "nimbus logs retention 90", "nimbus logs retention --default", "nimbus logs retention 30 --all")
}

type retentionView struct {
	Days    int32 `json:"days"` // 0 for ever
	Default bool  `json:"default"`
}

func (c *logsRetentionCmd) Run(ctx context.Context, a *app) error {
	if c.Default && c.Days != nil || c.All && c.Days == nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "--all goes with a number of days, --default with none")
	}
	return a.asking(func(cl *client.Client) error {
		if err := c.set(ctx, cl); err != nil {
			return err
		}
		days, own, err := cl.LogRetention(ctx)
		if err != nil {
			return err
		}
		if a.root.JSON {
			return a.printJSON(map[string]any{"retention": retentionView{days, !own}})
		}
		words := "for ever"
		if days > 0 {
			words = fmt.Sprintf("%d days", days)
		}
		if !own {
			words += ", as the default is"
		}
		_, err = fmt.Fprintln(a.Out, "logs are kept "+words)
		return err
	})
}

func (c *logsRetentionCmd) set(ctx context.Context, cl *client.Client) error {
	switch {
	case c.Default:
		return cl.ClearLogRetention(ctx)
	case c.All:
		return cl.SetDefaultLogRetention(ctx, int32(*c.Days))
	case c.Days != nil:
		return cl.SetLogRetention(ctx, int32(*c.Days))
	}
	return nil
}
