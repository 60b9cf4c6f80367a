package cli

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

type usersTokenCmd struct {
	User     string         `arg:"" help:"Its id or address."`
	Name     string         `help:"What it is for." default:"command line"`
	Role     nimbus.Role    `help:"The most that it may do: viewer, developer, operator or admin. Default: the user's." placeholder:"ROLE"`
	Scopes   []nimbus.Scope `name:"scope" help:"Narrows it further; may be given again: see nimbus tokens create." placeholder:"SCOPE"`
	ValidFor time.Duration  `within:"1s..8784h" help:"How long it works, at most 8784h." default:"2160h"`
}

func (*usersTokenCmd) Help() string {
	return "A member's first token for the command line, made by who administers the platform; it is shown this once, and does what the member may in the org. It ends with the token that makes it.\n\n" +
		usage("nimbus users token ada@example.com --org acme > ada.token")
}

func (c *usersTokenCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		return a.makeToken(ctx, cl, nimbus.NewToken{Name: c.Name, User: c.User, Role: c.Role, Scopes: c.Scopes, ValidFor: c.ValidFor})
	})
}
