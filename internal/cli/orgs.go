package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/client"
)

type orgsCmd struct {
	List   orgsListCmd   `cmd:"" default:"withargs" help:"Show the orgs that one is in; all, to an administrator of the platform."`
	Create orgsCreateCmd `cmd:"" help:"Make an org."`
	Owners orgsOwnersCmd `cmd:"" help:"Say which GitHub owners' repositories come into an org."`
	Rates  ratesCmd      `cmd:"" help:"How often orgs may call."`
	Cache  orgCacheCmd   `cmd:"" help:"Whether the org's jobs of GitHub's have the cache."`

	Telemetry orgTelemetryCmd `cmd:"" help:"Whether the org's jobs have a receiver of OTLP."`

	Delete orgsDeleteCmd `cmd:"" help:"Delete an org that never had a job or a repository."`
}

// asking calls the server that the flags name.
func (a *app) asking(do func(*client.Client) error) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	return do(cl)
}

// say writes what came of a command: as JSON under a name, or else as a line for
// a person.
func (a *app) say(name string, v any, format string, args ...any) error {
	if a.root.JSON {
		return a.printJSON(map[string]any{name: v})
	}
	a.info(format, args...)
	return nil
}

// list writes a list: as JSON under a name, or else as a table.
func list[V any](a *app, name string, items []V, header string, row func(V) string) error {
	if a.root.JSON {
		return a.printJSON(map[string]any{name: append([]V{}, items...)}) // of none [], not null
	}
	rows := make([]string, len(items))
	for i, v := range items {
		rows[i] = row(v)
	}
	return a.table(header, rows)
}

type orgsListCmd struct{}

func (*orgsListCmd) Help() string { return usage("nimbus orgs", "nimbus orgs --json | jq .orgs") }

func (*orgsListCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		orgs, err := cl.Orgs(ctx)
		if err != nil {
			return err
		}
		return list(a, "orgs", viewAll(orgs, viewOrg), "ID\tNAME\tSINCE\tOWNERS", func(o orgView) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s", o.ID, o.Name, day(o.CreatedAt), strings.Join(o.Owners, ", "))
		})
	})
}

// day is when something began, "-" for what was always there.
func day(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format(time.DateOnly)
}

type orgsCreateCmd struct {
	Name   string   `arg:"" help:"Lower-case letters, digits and dashes."`
	Owners []string `name:"owner" help:"GitHub owner whose repositories come into it; may be given again." placeholder:"OWNER"`
}

func (*orgsCreateCmd) Help() string {
	return "Repositories come into the org of their owner when their first job does, and into the default org if it has none.\n\n" +
		usage("nimbus orgs create acme", "nimbus orgs create acme --owner acme-inc --owner acme-labs")
}

func (c *orgsCreateCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		o, err := cl.CreateOrg(ctx, c.Name, c.Owners)
		if err != nil {
			return err
		}
		return a.say("org", viewOrg(o), "%s is made: %s", o.Name, o.ID)
	})
}

type orgsOwnersCmd struct {
	Org    string   `arg:"" help:"Its name or id."`
	Owners []string `arg:"" optional:"" help:"All its GitHub owners from now on; none for none."`
}

func (*orgsOwnersCmd) Help() string {
	return "Repositories that are known already stay where they are: `nimbus repos move` moves one.\n\n" +
		usage("nimbus orgs owners acme acme-inc acme-labs", "nimbus orgs owners acme")
}

func (c *orgsOwnersCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		o, err := cl.SetOrgOwners(ctx, c.Org, c.Owners)
		if err != nil {
			return err
		}
		return a.say("org", viewOrg(o), "new repositories of %d owners come into %s", len(o.Owners), o.Name)
	})
}

type orgsDeleteCmd struct {
	Org string `arg:"" help:"Its name or id."`
}

func (*orgsDeleteCmd) Help() string {
	return "Its tokens end, its service accounts and memberships go.\n\n" + usage("nimbus orgs delete acme")
}

func (c *orgsDeleteCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		if err := cl.DeleteOrg(ctx, c.Org); err != nil {
			return err
		}
		return a.say("deleted", c.Org, "%s is deleted", c.Org)
	})
}
