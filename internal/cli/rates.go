package cli

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

type ratesCmd struct {
	List ratesListCmd `cmd:"" default:"withargs" help:"Show how often the org may call, where that is not the usual."`
	Set  ratesSetCmd  `cmd:"" help:"Give an org a rate of its own; for the platform's administrators."`
}

const aboutRates = "How often an org may send webhooks (each installation at its GitHub owners), submit jobs, and make other calls. The usual rates are flags of the server (--limit-…).\n\n"

type ratesListCmd struct{}

func (*ratesListCmd) Help() string {
	return aboutRates + usage("nimbus orgs rates", "nimbus orgs rates --org acme --json | jq .rates")
}

type rateView struct {
	Kind nimbus.RateKind `json:"kind"`
	Rate string          `json:"rate"`
}

func (*ratesListCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		rates, err := cl.Rates(ctx)
		if err != nil {
			return err
		}
		views := make([]rateView, len(rates))
		for i, r := range rates {
			views[i] = rateView{r.Kind, r.Rate}
		}
		return list(a, "rates", views, "KIND\tRATE", func(v rateView) string { return string(v.Kind) + "\t" + v.Rate })
	})
}

type ratesSetCmd struct {
	OrgName string          `arg:"" name:"org" help:"Its name or id."`
	Kind    nimbus.RateKind `arg:"" enum:"webhooks,submissions,api" help:"webhooks, submissions or api."`
	Rate    string          `arg:"" help:"PER_SECOND/BURST like 100/2000, off for no limit, or usual."`
}

func (*ratesSetCmd) Help() string {
	return aboutRates + "It counts on all replicas within a few seconds.\n\n" +
		usage("nimbus orgs rates set acme submissions 10/100", "nimbus orgs rates set acme webhooks off", "nimbus orgs rates set acme api usual")
}

func (c *ratesSetCmd) Run(ctx context.Context, a *app) error {
	rate := c.Rate
	if rate == "usual" {
		rate = ""
	}
	return a.asking(func(cl *client.Client) error {
		if err := cl.SetRate(ctx, c.OrgName, c.Kind, rate); err != nil {
			return err
		}
		return a.say("rate", rateView{c.Kind, c.Rate}, "the org %s has the rate %s of %s", c.OrgName, c.Rate, c.Kind)
	})
}
