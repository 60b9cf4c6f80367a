package cli

import (
	"fmt"
	"runtime"
)

type versionCmd struct{}

func (*versionCmd) Help() string { return usage("nimbus version") }

func (*versionCmd) Run(a *app) error {
	if a.root.JSON {
		return a.printJSON(struct {
			Version  string `json:"version"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{a.version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
	}
	fmt.Fprintf(a.Out, "nimbus %s (%s, %s/%s)\n", a.version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
