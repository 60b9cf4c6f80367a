//go:build !cgo

// Program nimbus-nvml tells the host agent of NVIDIA's GPUs. Without a C
// compiler it is built to say that it can't.
package main

import (
	"fmt"
	"os"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

func main() {
	why := inventory.Document{Failure: &inventory.Failure{
		What: "this nimbus-nvml was built without C, and can't load NVIDIA's library",
		Hint: "build it where there is a C compiler: CGO_ENABLED=1 go build ./cmd/nimbus-nvml",
	}}
	if err := why.Write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "nimbus-nvml:", err)
		os.Exit(1)
	}
}
