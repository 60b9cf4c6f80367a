// Package shim is what nimbus-shim does and how the agent talks to it.
//
// One shim owns the first process of one sandbox: it starts it, or lets it in
// where a container's daemon does, keeps a deadline on the boot-time clock, kills the whole process tree when the
// deadline passes without a renewal or when told to, and leaves the exit in
// a file. The agent may restart, hang or be upgraded; the shim doesn't care.
package shim

import "time"

// Spec is what a shim runs. It is handed over in Dir/shim.json, never in argv. The
// same file is the shim's standard input: by that it knows that it is still meant.
type Spec struct {
	// Args is the command line of the first process; Args[0] is a path.
	Args []string `json:"args"`
	Env  []string `json:"env"`
	// WorkDir is where it starts; "" means the shim's directory.
	WorkDir string `json:"work_dir"`
	// Netns is the path of a network namespace to enter, "" for the shim's own.
	Netns string `json:"netns"`
	// Namespaces starts the process in new pid, mount, ipc and uts namespaces
	// (in a new user namespace too when the shim isn't root).
	Namespaces bool `json:"namespaces"`
	// Guard is for a process that becomes another user: with a guard above it, it
	// ends with its shim all the same. It is in a PID namespace then.
	Guard bool `json:"guard"`
	// Cgroup limits and kills the tree, where the machine has cgroups.
	Cgroup Cgroup `json:"cgroup"`
	// Door is there in place of Args, and of all that is said of a process above
	// and below, where somebody else starts the first process.
	Door *Door `json:"door,omitempty"`
	// Deadline is how long the tree lives without a renewal.
	Deadline time.Duration `json:"deadline_ns"`
	// Output is a file that takes stdout and stderr of the first process, cut
	// at 1 MiB. "" means Dir/output.
	Output string `json:"output"`
}

// Cgroup names a cgroup below the agent's own, and its limits. Zero limits
// are not set.
type Cgroup struct {
	Name        string  `json:"name"`
	MemoryBytes int64   `json:"memory_bytes"`
	CPUs        float64 `json:"cpus"`
	PIDs        int64   `json:"pids"`
}

// Door is by what a first process comes that somebody else starts: see package
// door. All else of a sandbox has to end with this process, as all of a PID
// namespace does with its first.
type Door struct {
	// Socket is where it comes in, and Serve where it serves the agent: names of
	// sockets that the shim makes, in folders below its directory.
	Socket string `json:"socket"`
	Serve  string `json:"serve"`
	// Token is what it is given.
	Token string `json:"token"`
}
