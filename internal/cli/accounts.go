package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type accountsCmd struct {
	List   accountsListCmd   `cmd:"" default:"withargs" help:"Show the service accounts of the org."`
	Create accountsCreateCmd `cmd:"" help:"Make a service account."`
	Delete accountsDeleteCmd `cmd:"" help:"Delete a service account, and end its tokens."`
}

type accountsListCmd struct{}

func (*accountsListCmd) Help() string {
	return usage("nimbus service-accounts", "nimbus service-accounts --json | jq .accounts")
}

func (*accountsListCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		accounts, err := cl.ServiceAccounts(ctx)
		if err != nil {
			return err
		}
		return list(a, "accounts", viewAll(accounts, viewAccount), "ID\tNAME\tROLE\tSINCE\tMADE BY", func(s accountView) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", s.ID, terminal.OneLine(s.Name), s.Role, s.CreatedAt.Format(time.DateOnly), s.CreatedBy)
		})
	})
}

type accountsCreateCmd struct {
	Name string      `arg:"" help:"What it is for."`
	Role nimbus.Role `help:"viewer, developer, operator or admin." default:"developer"`
}

func (*accountsCreateCmd) Help() string {
	return "A service account is a program with a role in the org. It calls with tokens that are its own: nimbus tokens create --account.\n\n" +
		usage("nimbus service-accounts create deploy-bot", "nimbus service-accounts create dashboard --role viewer --org acme")
}

func (c *accountsCreateCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		s, err := cl.CreateServiceAccount(ctx, c.Name, c.Role)
		if err != nil {
			return err
		}
		return a.say("account", viewAccount(s), "%s is made: %s", s.Name, s.ID)
	})
}

type accountsDeleteCmd struct {
	ID string `arg:"" help:"Its id."`
}

func (*accountsDeleteCmd) Help() string { return usage("nimbus service-accounts delete acct_01hx") }

func (c *accountsDeleteCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		if err := cl.DeleteServiceAccount(ctx, c.ID); err != nil {
			return err
		}
		return a.say("deleted", c.ID, "%s is deleted", c.ID)
	})
}
