// Command nimbus-shim owns one sandbox' first process; see internal/shim. Below
// it, it may be that process too: the one that serves a restored machine's
// memory.
package main

import (
	"os"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/pages"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == pages.Flag {
		os.Exit(pages.Main(os.Args[2], os.Stderr))
	}
	os.Exit(shim.Main(os.Args[1:], os.Stderr))
}
