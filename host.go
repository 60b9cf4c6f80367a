package nimbus

import "time"

// HostState is whether a host may get jobs.
type HostState string

// The host states. A host that did not heartbeat for a lease's length is away;
// it is ready again with its next heartbeat.
const (
	HostReady HostState = "ready"
	HostAway  HostState = "away"
)

// Host is a machine that runs jobs.
type Host struct {
	ID        string
	Name      string
	State     HostState
	Version   string // of its agent
	JoinedAt  time.Time
	SeenAt    time.Time
	Inventory Inventory
	Running   int // leases it holds
}

// Inventory is what a host says it has. It is sent at join and at each start
// of the agent.
type Inventory struct {
	Arch      string // GOARCH
	CPUs      int
	MemoryMiB int
	Executors []ExecutorStatus
}

// ExecutorStatus tells whether a host can use an executor, and if not why and
// what would mend it.
type ExecutorStatus struct {
	Name      string
	Available bool
	Detail    string // "QEMU 7.2.22, TCG" or why it can't
	Hint      string
}

// Capacity is what a host has free at the time of a poll.
type Capacity struct {
	CPUs      int
	MemoryMiB int
	Sandboxes int // how many more it may hold at all
}

// Serves tells whether a host with this inventory could ever run class c.
func (i Inventory) Serves(c Class) bool {
	if c.Arch != "" && c.Arch != i.Arch || c.CPUs > i.CPUs || c.MemoryMiB > i.MemoryMiB {
		return false
	}
	for _, e := range i.Executors {
		if e.Name == c.Executor && e.Available {
			return true
		}
	}
	return false
}
