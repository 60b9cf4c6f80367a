// Command conformance prints what became of the executors' common suite, from the
// results in a folder: see make conformance.
package main

import (
	"fmt"
	"os"

	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: conformance DIR")
		os.Exit(2)
	}
	if err := executortest.Table(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
