// Package shim is what nimbus-shim does and how the agent talks to it.
//
// One shim owns the first process of one sandbox: it starts it, keeps a
// deadline on the boot-time clock, kills the whole process tree when the
// deadline passes without a renewal or when told to, and leaves the exit in
// a file. The agent may restart, hang or be upgraded; the shim doesn't care.
package shim

import "time"

// Spec is what a shim runs. It is handed over in Dir/shim.json, never in argv.
type Spec struct {
	// Args is the command line of the first process; Args[0] is a path.
	Args []string
	Env  []string
	// WorkDir is where it starts; "" means the shim's directory.
	WorkDir string
	// Netns is the path of a network namespace to enter, "" for the shim's own.
	Netns string
	// Namespaces starts the process in new pid, mount, ipc and uts namespaces
	// (in a new user namespace too when the shim isn't root).
	Namespaces bool
	// Cgroup limits and kills the tree, where the machine has cgroups.
	Cgroup Cgroup
	// Deadline is how long the tree lives without a renewal.
	Deadline time.Duration
	// Output is a file that takes stdout and stderr of the first process, cut
	// at 1 MiB. "" means Dir/output.
	Output string
}

// Cgroup names a cgroup below the agent's own, and its limits. Zero limits
// are not set.
type Cgroup struct {
	Name        string
	MemoryBytes int64
	CPUs        float64
	PIDs        int64
}
