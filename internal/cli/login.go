package cli

import (
	"context"
	"fmt"
)

type loginCmd struct {
	User string `help:"Sign in as this user, by id or address: for administrators of the platform." placeholder:"USER"`
}

func (*loginCmd) Help() string {
	return "The link works once, and only for a short while. What is signed in by it does no more than the token that made it, and ends with it.\n\n" +
		usage("nimbus login", `xdg-open "$(nimbus login)"`, "nimbus login --user ada@example.com")
}

func (c *loginCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	link, err := cl.LoginLink(ctx, c.User)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			URL string `json:"url"`
		}{link})
	}
	fmt.Fprintln(a.Out, link)
	return nil
}
