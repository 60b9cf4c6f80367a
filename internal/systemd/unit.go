// Package systemd makes the agent a service of its machine: a unit with the
// fewest rights it works with, its settings, and what the kernel has to have.
package systemd

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"github.com/nimbus-ci/nimbus"
)

// The service, and the user that it has where it needs no rights at all.
const (
	Service = "nimbus-agent.service"
	User    = "nimbus"
)

// Places of what is installed, below the machine's root.
const (
	Program     = "/usr/local/bin/nimbus"
	NVML        = "/usr/local/bin/nimbus-nvml" // what reads GPUs
	Data        = "/var/lib/nimbus"
	Settings    = "/etc/nimbus/agent.env"
	JoinToken   = "/etc/nimbus/join.token"
	unitPath    = "/etc/systemd/system/" + Service
	wantedPath  = "/etc/systemd/system/multi-user.target.wants/" + Service
	sysctlPath  = "/etc/sysctl.d/60-nimbus.conf"
	modulesPath = "/etc/modules-load.d/nimbus.conf"
)

//go:embed agent.service
var unitTemplate string

//go:embed sysctl.conf
var sysctls []byte

//go:embed modules.conf
var modules []byte

// machines are the executors that make networks, cgroups and disks of their own.
var machines = []string{nimbus.ExecutorMicroVM, nimbus.ExecutorFirecracker, nimbus.ExecutorDocker, nimbus.ExecutorGPU}

// Privileged tells whether an agent with these executors has to be root. One
// that only runs commands does it as a user without any rights.
func Privileged(executors []string) bool {
	return slices.ContainsFunc(executors, func(e string) bool { return slices.Contains(machines, e) })
}

// capabilities are root's that are left to the agent, and why.
var capabilities = []string{
	"CAP_NET_ADMIN", "CAP_NET_RAW", // networks of sandboxes, and their fence
	"CAP_NET_BIND_SERVICE",        // port 53 of their gateway
	"CAP_SYS_ADMIN",               // namespaces, mounts, control groups
	"CAP_SYS_CHROOT", "CAP_MKNOD", // jails
	"CAP_SYS_PTRACE",                          // the page server, which reads what its machine asks for
	"CAP_SYS_RESOURCE",                        // limits of sandboxes
	"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", // monitors are nobody, or a user each
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", // their files
	"CAP_KILL", // their end
}

// unit writes the service.
func unit(executors []string) ([]byte, error) {
	t, err := template.New(Service).Parse(unitTemplate)
	if err != nil {
		return nil, fmt.Errorf("read the unit's template: %w", err)
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{
		"Program": Program, "Settings": Settings, "User": User,
		"Privileged": Privileged(executors), "Capabilities": strings.Join(capabilities, " "),
		"Local": slices.Contains(executors, nimbus.ExecutorLocal),
	})
	if err != nil {
		return nil, fmt.Errorf("write the unit: %w", err)
	}
	return out.Bytes(), nil
}
