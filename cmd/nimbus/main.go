// Command nimbus is the server, the host agent and the command line in one;
// see internal/cli.
package main

import (
	"context"
	"os"

	"github.com/nimbus-ci/nimbus/internal/cli"
)

// version is set by the linker.
var version = "devel"

func main() {
	os.Exit(cli.Main(context.Background(), version, os.Args[1:], cli.Streams{Out: os.Stdout, Err: os.Stderr}))
}
