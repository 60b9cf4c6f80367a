package cli

import (
	_ "embed"
	"fmt"
)

//go:embed shells/bash.sh
var bashCompletion string

//go:embed shells/zsh.sh
var zshCompletion string

//go:embed shells/fish.fish
var fishCompletion string

type completionCmd struct {
	Shell string `arg:"" help:"Which: ${enum}." enum:"bash,zsh,fish"`
}

func (*completionCmd) Help() string {
	return `Writes a script that has the shell complete commands, flags and their values, and the names of hosts and the ids of jobs, for which it asks the server that the flags and the environment name.

` + usage(
		"source <(nimbus completion bash)    # in ~/.bashrc",
		`nimbus completion zsh > "${fpath[1]}/_nimbus"`,
		"nimbus completion fish > ~/.config/fish/completions/nimbus.fish",
	)
}

func (c *completionCmd) Run(a *app) error {
	_, err := fmt.Fprint(a.Out, map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Shell])
	return err
}
