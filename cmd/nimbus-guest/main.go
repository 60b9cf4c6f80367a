// Command nimbus-guest is the first process inside a sandbox; see internal/guest.
package main

import (
	"os"

	"github.com/nimbus-ci/nimbus/internal/guest"
)

// version is set by the linker.
var version = "devel"

func main() { os.Exit(guest.Main(version, os.Stderr)) }
