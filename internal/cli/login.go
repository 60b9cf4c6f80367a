package cli

import (
	"context"
	"fmt"
)

type loginCmd struct{}

func (*loginCmd) Help() string {
	return "The link works once, and only for a short while.\n\n" + usage("nimbus login", `xdg-open "$(nimbus login)"`)
}

func (*loginCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	link, err := cl.LoginLink(ctx)
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
