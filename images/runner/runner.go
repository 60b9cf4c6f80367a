// Package runner defines the image that jobs get when they name none.
package runner

import (
	_ "embed"
	"strings"
)

//go:embed packages
var packages string

// Packages are the Debian packages to install, beside what they depend on.
func Packages() []string {
	var names []string
	for line := range strings.Lines(packages) {
		if name := strings.TrimSpace(line); name != "" && !strings.HasPrefix(name, "#") {
			names = append(names, name)
		}
	}
	return names
}

// Program is what takes a GitHub job in this image. Its configuration comes in
// the environment.
const Program = "/usr/local/bin/nimbus-runner"
