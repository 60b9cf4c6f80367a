package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type usersCmd struct {
	List   usersListCmd   `cmd:"" default:"withargs" help:"Show who has which role in the org."`
	Add    usersAddCmd    `cmd:"" help:"Give somebody a role in the org, or another one."`
	Remove usersRemoveCmd `cmd:"" help:"Take somebody out of the org."`
	Token  usersTokenCmd  `cmd:"" help:"Make a token of a member for the command line; for administrators of the platform."`
	All    usersAllCmd    `cmd:"" help:"Show all users of the platform and what they may do where."`
	Create usersCreateCmd `cmd:"" help:"Make a user of the platform, in no org yet."`
	Admin  usersAdminCmd  `cmd:"" help:"Let a user administer the platform, or no longer."`
	Delete usersDeleteCmd `cmd:"" help:"Take a user out of all orgs, and end its sessions and tokens."`
}

type usersListCmd struct{}

func (*usersListCmd) Help() string {
	return "Roles are viewer (reads jobs and logs), developer (runs and cancels jobs), operator (sets limits and priorities) and admin (says who may do what); each may do what the one before may.\n\n" +
		usage("nimbus users", "nimbus users --org acme --json | jq .members")
}

func (*usersListCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		members, err := cl.Members(ctx)
		if err != nil {
			return err
		}
		return list(a, "members", viewAll(members, viewMember), "ID\tEMAIL\tNAME\tROLE\tSINCE", func(m memberView) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", m.UserID, terminal.OneLine(m.Email), terminal.OneLine(m.Name), m.Role, m.JoinedAt.Format(time.DateOnly))
		})
	})
}

type usersAddCmd struct {
	Email string      `arg:"" help:"Address."`
	Role  nimbus.Role `help:"viewer, developer, operator or admin." default:"developer"`
	Name  string      `help:"What the user is called, if there is none of this address yet." placeholder:"NAME"`
}

func (*usersAddCmd) Help() string {
	return "Who is no user yet becomes one, signs a browser in by a link (nimbus login --user), and has a token for the command line from an administrator of the platform (nimbus users token).\n\n" +
		usage("nimbus users add ada@example.com --role developer", "nimbus users add ada@example.com --role admin --org acme")
}

func (c *usersAddCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		m, err := cl.SetMember(ctx, c.Email, c.Name, c.Role)
		if err != nil {
			return err
		}
		return a.say("member", viewMember(m), "%s has the role %s in %s", m.Email, m.Role, m.OrgName)
	})
}

type usersRemoveCmd struct {
	User string `arg:"" help:"Its id or address."`
}

func (*usersRemoveCmd) Help() string {
	return "The user's tokens of this org end.\n\n" + usage("nimbus users remove ada@example.com --org acme")
}

func (c *usersRemoveCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		id := c.User
		if strings.Contains(id, "@") {
			members, err := cl.Members(ctx)
			if err != nil {
				return err
			}
			for _, m := range members {
				if strings.EqualFold(m.Email, c.User) {
					id = m.UserID
				}
			}
			if id == c.User {
				return nimbus.Errorf(nimbus.CodeNotFound, "there is no such member").WithHint("`nimbus users` lists them")
			}
		}
		if err := cl.RemoveMember(ctx, id); err != nil {
			return err
		}
		return a.say("removed", id, "%s has no role in the org any more", c.User)
	})
}

type usersAllCmd struct{}

func (*usersAllCmd) Help() string { return usage("nimbus users all", "nimbus users all --json") }

func (*usersAllCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		users, err := cl.Users(ctx)
		if err != nil {
			return err
		}
		return list(a, "users", viewAll(users, viewUser), "ID\tEMAIL\tNAME\tROLES", func(u userView) string {
			var roles []string
			if u.Platform {
				roles = append(roles, "administers the platform")
			}
			for _, m := range u.Orgs {
				roles = append(roles, fmt.Sprintf("%s: %s", m.OrgName, m.Role))
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s", u.ID, terminal.OneLine(u.Email), terminal.OneLine(u.Name), strings.Join(roles, ", "))
		})
	})
}

type usersCreateCmd struct {
	Email    string `arg:"" help:"Address."`
	Name     string `help:"What the user is called. Default: the address." placeholder:"NAME"`
	Platform bool   `name:"platform-admin" help:"The user administers the platform."`
}

func (*usersCreateCmd) Help() string {
	return "There are no passwords: `nimbus login --user` makes a link that signs a user in, once.\n\n" +
		usage("nimbus users create ada@example.com --name Ada", "nimbus users create root@example.com --platform-admin")
}

func (c *usersCreateCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		u, err := cl.CreateUser(ctx, c.Email, c.Name, c.Platform)
		if err != nil {
			return err
		}
		return a.say("user", viewUser(u), "%s is made: %s", u.Email, u.ID)
	})
}

type usersAdminCmd struct {
	User string `arg:"" help:"Its id or address."`
	Off  bool   `help:"No longer."`
}

func (*usersAdminCmd) Help() string {
	return usage("nimbus users admin ada@example.com", "nimbus users admin ada@example.com --off")
}

func (c *usersAdminCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		u, err := cl.SetPlatformAdmin(ctx, c.User, !c.Off)
		if err != nil {
			return err
		}
		if c.Off {
			return a.say("user", viewUser(u), "%s does not administer the platform", u.Email)
		}
		return a.say("user", viewUser(u), "%s administers the platform", u.Email)
	})
}

type usersDeleteCmd struct {
	User string `arg:"" help:"Its id or address."`
}

func (*usersDeleteCmd) Help() string { return usage("nimbus users delete ada@example.com") }

func (c *usersDeleteCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		if err := cl.RemoveUser(ctx, c.User); err != nil {
			return err
		}
		return a.say("deleted", c.User, "%s is no user any more", c.User)
	})
}
