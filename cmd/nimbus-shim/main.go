// Command nimbus-shim owns one sandbox' first process; see internal/shim.
package main

import (
	"os"

	"github.com/nimbus-ci/nimbus/internal/shim"
)

func main() { os.Exit(shim.Main(os.Args[1:], os.Stderr)) }
