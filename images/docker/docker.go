// Package docker defines the image for jobs that use docker: what "runner" has,
// and a daemon of the job's own, which nimbus-guest starts when it is first
// used.
package docker

import (
	_ "embed"
	"strings"
)

// Name is the image's.
const Name = "docker"

//go:embed packages
var packages string

//go:embed modules
var modules string

//go:embed daemon.json
var settings []byte

// Packages are the Debian packages to install beside those of runner.
func Packages() []string { return words(packages) }

// Modules are those of the kernel that the daemon needs.
func Modules() []string { return words(modules) }

func words(text string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if word := strings.TrimSpace(line); word != "" && !strings.HasPrefix(word, "#") {
			found = append(found, word)
		}
	}
	return found
}

// ModulesDir is where they are. nimbus-guest starts a daemon where it finds this
// folder: it has the name, too.
const ModulesDir = "/usr/lib/nimbus/docker/modules"

// Group may use the daemon: a line of /etc/group. The account of GitHub's own
// runner is in it.
const Group = "docker:x:999:runner\n"

// SettingsFile has the daemon's settings.
const SettingsFile = "/etc/docker/daemon.json"

// Settings are the daemon's own: what depends on the machine is said when it is
// started.
func Settings() []byte { return settings }

// Links are what maintainer scripts would have made.
func Links() map[string]string {
	links := map[string]string{"/var/run": "/run"}
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, of := range []string{"", "-save", "-restore"} {
			links["/usr/sbin/"+program+of] = program + "-nft" + of
		}
	}
	return links
}
