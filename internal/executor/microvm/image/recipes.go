package image

import "github.com/nimbus-ci/nimbus"

// HowToBuild is the command that builds an image of this name; "" where there is
// no recipe for it. Package debian has them.
func HowToBuild(name string) string {
	switch name {
	case nimbus.DefaultImage:
		return "nimbus images build"
	case "ai-eval-runner", "docker":
		return "nimbus images build " + name
	}
	return ""
}
