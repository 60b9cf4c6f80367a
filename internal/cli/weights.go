package cli

import (
	"cmp"
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type weightsCmd struct {
	List weightsListCmd `cmd:"" default:"withargs" help:"Show the weights of the org and its repositories."`
	Set  weightsSetCmd  `cmd:"" help:"Give the org, or one of its repositories, a weight."`
}

const aboutWeights = "When there is more to do than hosts can, orgs get of the slots what their weights say, and of an org's part its repositories. 100 is the usual weight; 200 is twice as much.\n\n"

type weightsListCmd struct{}

func (*weightsListCmd) Help() string {
	return aboutWeights + usage("nimbus weights", "nimbus weights --json | jq .weights")
}

func (*weightsListCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	return a.printWeights(ctx, cl)
}

type weightsSetCmd struct {
	Repo weightsSetRepoCmd `cmd:"" help:"Give a repository a weight among those of its org."`
	Org  weightsSetOrgCmd  `cmd:"" help:"Give an org a weight among all; for the platform's administrators."`
}

type weightsSetRepoCmd struct {
	Repo    string `arg:"" help:"OWNER/NAME."`
	Percent int    `within:"1..10000" arg:"" help:"1 to 10000; 100 is the usual."`
}

func (*weightsSetRepoCmd) Help() string {
	return aboutWeights + usage("nimbus weights set repo octo/hello 50")
}

func (c *weightsSetRepoCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.SetRepoWeight(ctx, c.Repo, c.Percent); err != nil {
		return err
	}
	return a.printWeights(ctx, cl)
}

type weightsSetOrgCmd struct {
	Org     string `arg:"" help:"Its name or id."`
	Percent int    `within:"1..10000" arg:"" help:"1 to 10000; 100 is the usual."`
}

func (*weightsSetOrgCmd) Help() string {
	return aboutWeights + usage("nimbus weights set org acme 300")
}

func (c *weightsSetOrgCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.SetOrgWeight(ctx, c.Org, c.Percent); err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Org     string `json:"org"`
			Percent int    `json:"percent"`
		}{c.Org, c.Percent})
	}
	a.info("%s has the weight %d %% now", terminal.OneLine(c.Org), c.Percent)
	return nil
}

type weightView struct {
	Repo    string `json:"repo,omitempty"` // "" for the org
	Percent int    `json:"percent"`
}

func (a *app) printWeights(ctx context.Context, cl *client.Client) error {
	weights, err := cl.Weights(ctx)
	if err != nil {
		return err
	}
	v := struct {
		Weights []weightView `json:"weights"`
	}{Weights: []weightView{}}
	var rows []string
	for _, w := range weights {
		v.Weights = append(v.Weights, weightView(w))
		rows = append(rows, fmt.Sprintf("%s\t%d %%", cmp.Or(terminal.OneLine(w.Repo), "the org"), w.Percent))
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	return a.table("OF\tWEIGHT", rows)
}
