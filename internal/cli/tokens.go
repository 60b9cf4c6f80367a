package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type tokensCmd struct {
	List   tokensListCmd   `cmd:"" default:"withargs" help:"Show tokens: one's own, or all of the org to an admin of it."`
	Create tokensCreateCmd `cmd:"" help:"Make a token."`
	Revoke tokensRevokeCmd `cmd:"" help:"End a token, everywhere within two seconds."`
}

type tokensListCmd struct {
	Platform bool `help:"Those that administer the platform."`
}

func (*tokensListCmd) Help() string {
	return "Tokens themselves are kept nowhere. When one was used is told to the minute.\n\n" +
		usage("nimbus tokens", "nimbus tokens --platform", "nimbus tokens --json | jq .tokens")
}

func (c *tokensListCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		tokens, err := cl.Tokens(ctx, c.Platform)
		if err != nil {
			return err
		}
		return list(a, "tokens", viewAll(tokens, viewToken), "ID\tNAME\tOF\tROLE\tSCOPES\tUSED\tENDS", func(t tokenView) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", t.ID, terminal.OneLine(t.Name), t.Subject, cmp.Or(string(t.Role), "-"), scopes(t.Scopes), used(t), ends(t))
		})
	})
}

func scopes(list []nimbus.Scope) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = string(s)
	}
	return cmp.Or(strings.Join(words, " "), "all")
}

func used(t tokenView) string {
	if t.LastUsedAt == nil {
		return "never"
	}
	return since(*t.LastUsedAt)
}

// ends is when a token ends, or how it did.
func ends(t tokenView) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked " + since(*t.RevokedAt)
	case t.ExpiresAt == nil:
		return "never"
	case t.ExpiresAt.Before(time.Now()):
		return "expired " + since(*t.ExpiresAt)
	}
	return t.ExpiresAt.Format(time.DateOnly)
}

type tokensCreateCmd struct {
	Name     string         `arg:"" help:"What it is for."`
	Account  string         `help:"Of this service account, by its id; for admins of the org. Default: one's own." placeholder:"ID"`
	Platform bool           `help:"It administers the platform; for who does."`
	Role     nimbus.Role    `help:"The most that it may do: viewer, developer, operator or admin. Default: its owner's." placeholder:"ROLE"`
	Scopes   []nimbus.Scope `name:"scope" help:"Narrows it further; may be given again: jobs:read, jobs:write, hosts:read, hosts:write, org:read, org:write, tokens:read, tokens:write, audit:read, metrics:read, shells, registry:read, registry:write." placeholder:"SCOPE"`
	ValidFor time.Duration  `within:"1s..8784h" help:"How long it works, at most 8784h." default:"2160h"`
}

func (*tokensCreateCmd) Help() string {
	return "The token is shown this once. It does no more than who makes it may, nothing once its owner may not, and ends with the token that makes it at the latest: revoked with it, and expired with it. It is one's own in the org; who administers the platform has no role in one, and makes it for a member (nimbus users token), a service account (--account) or the platform (--platform).\n\n" +
		usage("nimbus tokens create laptop --platform > token", "nimbus tokens create laptop > token   # a member of the org", "nimbus tokens create dashboard --role viewer --valid-for 24h",
			"nimbus tokens create deploy --account acct_01hx --scope jobs:write", "nimbus tokens create prometheus --platform --scope metrics:read")
}

func (c *tokensCreateCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		return a.makeToken(ctx, cl, nimbus.NewToken{
			Name: c.Name, AccountID: c.Account, Platform: c.Platform, Role: c.Role, Scopes: c.Scopes, ValidFor: c.ValidFor,
		})
	})
}

// makeToken makes a token and shows it this once.
func (a *app) makeToken(ctx context.Context, cl *client.Client, asked nimbus.NewToken) error {
	secret, t, err := cl.CreateToken(ctx, asked)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Secret string    `json:"secret"`
			Token  tokenView `json:"token"`
		}{secret, viewToken(t)})
	}
	fmt.Fprintln(a.Out, secret)
	a.info("%s works until %s", t.ID, t.ExpiresAt.Local().Format(time.RFC1123))
	if t.ExpiresAt.Sub(t.CreatedAt) < asked.ValidFor {
		a.info("that is when the token ends that it was made with, %s", t.Parent)
	}
	return nil
}

type tokensRevokeCmd struct {
	ID   string `arg:"" help:"Its id."`
	Keep string `help:"A token that was made with it and takes its place; for administrators of the platform." placeholder:"ID"`
}

func (*tokensRevokeCmd) Help() string {
	return "What was made with it ends too: tokens, their tokens, sessions, links to sign in. To replace an administrator's token, make another with it, and keep that.\n\n" +
		usage("nimbus tokens revoke tok_01hx", "nimbus tokens revoke tok_01hx --keep tok_01hy")
}

func (c *tokensRevokeCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		if err := cl.RevokeToken(ctx, c.ID, c.Keep); err != nil {
			return err
		}
		return a.say("revoked", c.ID, "%s is revoked", c.ID)
	})
}
