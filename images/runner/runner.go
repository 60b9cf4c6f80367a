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

// InContainer is a variable that is set where Program and GitHub's own runner are
// beside an image of somebody else's: there may be neither bash nor User in it.
const InContainer = "NIMBUS_RUNNER_IN_CONTAINER"

// Places in the image.
const (
	// Program is what takes a GitHub job. Its configuration comes in the
	// environment. It is the stand-in for GitHub's runner, which starts the
	// official one for configurations that are GitHub's.
	Program = "/usr/local/bin/nimbus-runner"
	// OfficialDir is where GitHub's own runner is, if it is inside. It belongs
	// to User.
	OfficialDir = "/opt/runner"
	// Official is what starts it.
	Official = OfficialDir + "/run.sh"
	// Listener is what that starts, again and again.
	Listener = OfficialDir + "/bin/Runner.Listener"
	// Diagnostics is the folder, below the one that a runner is started in, where
	// it leaves the pages of its job's log.
	Diagnostics = "_diag"
	// Inside is a file that says which runner is inside, in one line.
	Inside = OfficialDir + "/NIMBUS_RUNNER"
)

// The account that the official runner and its jobs have: it refuses root.
const (
	User   = "runner"
	UserID = 1001
	Home   = "/home/runner"
)

// Release is a version of GitHub's runner.
type Release struct {
	Version string
	URL     string // of a .tar.gz
	SHA256  string
	// Packages are those that it needs beside the image's own.
	Packages []string
}

// OfficialRelease is the one that the image is made with. GitHub gives no jobs
// to versions that are too old: raise it, with the digest of the release page,
// at least every month.
func OfficialRelease() Release {
	return ReleaseOf("2.337.0", "70920811a4f8ad4328818682bca5c6469c1c942fab52448868071d0063816613")
}

// ReleaseOf is the release of a version; digest is the SHA-256 of its archive for
// linux-x64, as its page at GitHub has it.
func ReleaseOf(version, digest string) Release {
	return Release{
		Version: version,
		URL:     "https://github.com/actions/runner/releases/download/v" + version + "/actions-runner-linux-x64-" + version + ".tar.gz",
		SHA256:  digest,
		// What its bin/installdependencies.sh installs on Debian 12, but for tracing.
		Packages: []string{"libicu72", "libkrb5-3", "libssl3", "zlib1g"},
	}
}
