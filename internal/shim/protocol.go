package shim

// The protocol between agent and shim: one connection per call, one line of
// JSON each way. The socket is the owner's alone; messages are bounded all the
// same, so that a confused peer costs nothing.

// maxMessage is the longest line that either side reads.
const maxMessage = 16 << 10

type op string

const (
	opRenew  op = "renew"
	opKill   op = "kill"
	opStatus op = "status"
	opWait   op = "wait"
	opCome   op = "come" // answered once there is a first process
)

type request struct {
	Op         op    `json:"op"`
	DeadlineMS int64 `json:"deadline_ms,omitempty"`
}

type response struct {
	Error string `json:"error,omitempty"`
	Gone  bool   `json:"gone,omitempty"` // the tree has ended; the shim is about to
	PID   int    `json:"pid,omitempty"`
	Exit  *Exit  `json:"exit,omitempty"`
}

// Exit is how the tree ended.
type Exit struct {
	Cause Cause `json:"cause"`
	// Code is the first process' exit code, -1 when a signal ended it, or when it
	// is not the shim's child and so can't be known.
	Code        int    `json:"code"`
	Signal      string `json:"signal,omitempty"`
	CPUMillis   int64  `json:"cpu_ms"`
	MaxRSSBytes int64  `json:"max_rss_bytes"`
	// Usage is what the tree used in all; zero where it had no cgroup.
	Usage Usage `json:"usage"`
	// OOMKills is how many processes of the tree the kernel killed because it
	// had no more memory.
	OOMKills int64 `json:"oom_kills,omitempty"`
}

// Cause tells who ended the tree.
type Cause string

// The causes.
const (
	CauseSelf     Cause = "self"
	CauseKilled   Cause = "killed"
	CauseDeadline Cause = "deadline"
	CauseUnknown  Cause = "unknown" // the shim left no record
)
