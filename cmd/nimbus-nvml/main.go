//go:build cgo

// Program nimbus-nvml tells the host agent, which starts it, of NVIDIA's GPUs: a
// JSON document a line on its standard output, as
// internal/executor/gpu/inventory says. It ends when its standard input does.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/driver"
)

func main() {
	once := flag.Bool("once", false, "tell once, and end")
	mock := flag.String("mock", "", "for tests: be a DGX A100 in the state that this file has")
	flag.Parse()
	source := driver.Real()
	if *mock != "" {
		source = driver.Mock(*mock)
	}
	ctx, stop := context.WithCancel(context.Background())
	if !*once {
		go func() { // ends with the agent, which holds the other end
			_, _ = io.Copy(io.Discard, os.Stdin) // nothing is said there; its end is
			stop()
		}()
	}
	if err := driver.Serve(ctx, source, os.Stdout, *once); err != nil {
		fmt.Fprintln(os.Stderr, "nimbus-nvml:", err)
		os.Exit(1)
	}
}
