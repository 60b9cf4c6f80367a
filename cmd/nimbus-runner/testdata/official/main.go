// Command official is put into GitHub's runner's place and tells how it was
// started.
package main

import (
	"fmt"
	"os"
)

func main() {
	dir, _ := os.Getwd()
	groups, _ := os.Getgroups()
	fmt.Println(os.Getuid(), os.Getgid(), groups, dir, os.Getenv("HOME"), os.Getenv("KEPT"), os.Getenv("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE"), os.Getenv("ACTIONS_RUNNER_INPUT_JITCONFIG"), os.Args[1:])
	os.Exit(7)
}
