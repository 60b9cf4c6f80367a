package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type reposCmd struct {
	List reposListCmd `cmd:"" default:"withargs" help:"Show the repositories of the org."`
	Move reposMoveCmd `cmd:"" help:"Give a repository to another org."`
}

type reposListCmd struct{}

func (*reposListCmd) Help() string {
	return "A repository is known from its first job on.\n\n" + usage("nimbus repos", "nimbus repos --org acme --json | jq .repos")
}

func (*reposListCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		repos, err := cl.Repos(ctx)
		if err != nil {
			return err
		}
		return list(a, "repos", viewAll(repos, viewRepo), "ID\tNAME\tSINCE", func(r repoView) string {
			return fmt.Sprintf("%s\t%s\t%s", r.ID, terminal.OneLine(r.Name), r.CreatedAt.Format(time.DateOnly))
		})
	})
}

type reposMoveCmd struct {
	Repo string `arg:"" help:"OWNER/NAME, or its id."`
	Org  string `arg:"" name:"to-org" help:"Name or id of the org."`
}

func (*reposMoveCmd) Help() string {
	return "Its jobs to come are the other org's. Those that it had stay where they are.\n\n" + usage("nimbus repos move acme-inc/website acme")
}

func (c *reposMoveCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		r, err := cl.MoveRepo(ctx, c.Repo, c.Org)
		if err != nil {
			return err
		}
		return a.say("repo", viewRepo(r), "jobs of %s are those of %s from now on", r.Name, r.OrgID)
	})
}
