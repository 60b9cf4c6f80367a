package nimbus

import "time"

// Times of the lease protocol. The shim's deadline is shorter than the lease,
// and both count from before the renewal was sent, so that a sandbox is dead
// before its job can be given to somebody else.
const (
	OfferTimeout      = 3 * time.Second  // an offer not accepted by then is queued again
	HeartbeatInterval = 5 * time.Second  // one call per host for all its leases
	LeaseDuration     = 30 * time.Second // counted by the database's clock
	ShimDeadline      = 25 * time.Second // counted on the boot-time clock of the host
)

// Lease names one execution of a job. Every write of a host carries it.
type Lease struct {
	AttemptID string
	// Fence only grows, over all attempts of all jobs. A write with a fence
	// that is not the attempt's current one is refused with CodeFenced.
	Fence int64
}

// Offer is a job that a host may accept within OfferTimeout.
type Offer struct {
	Lease
	JobID string
	Class Class
}

// Assignment is everything a host needs to run an attempt. It is returned by
// accept, and again by a repeated accept of the same lease.
type Assignment struct {
	Lease
	JobID   string
	OrgID   string
	Source  Source
	Name    string
	Class   Class
	Spec    Spec
	Timeout time.Duration
	// JobToken is for the job's own calls to Nimbus. It is inert until the
	// job is bound to what really runs. A repeated accept gets a fresh one,
	// and an empty one once the job runs.
	JobToken string
	// CacheToken lets the job's clients save to the cache and restore from it; ""
	// where there is none, or none for this job yet. It ends with the job.
	CacheToken string
	// CacheDoor has the host stand between a job of GitHub's and GitHub's cache
	// service.
	CacheDoor bool
	// Telemetry gives the sandbox a receiver of OTLP.
	Telemetry bool
}

// Phase is what a host reports of an attempt on its way.
type Phase string

// Origin is where a sandbox came from.
type Origin string

// The origins, the slowest first.
const (
	OriginCold     Origin = "cold"     // made for its job: booted, begun
	OriginRestored Origin = "restored" // made for its job, of one that was saved
	OriginWarm     Origin = "warm"     // it waited for its job
)

// Start is how a host began an attempt: what its sandbox was made of, and how
// long the attempt waited for it. The zero value tells nothing.
type Start struct {
	Origin Origin
	Took   time.Duration
}

// Check tells whether a start can be believed at all. Codes: invalid.
func (s Start) Check() error {
	switch s.Origin {
	case "", OriginCold, OriginRestored, OriginWarm:
	default:
		return Errorf(CodeInvalid, "a sandbox comes from nowhere called %q", clip(string(s.Origin)))
	}
	if s.Took < 0 {
		return Errorf(CodeInvalid, "a sandbox can't be ready before it is begun")
	}
	return nil
}

// The phases that a host reports, in order.
const (
	PhaseSandboxReady Phase = "sandbox_ready"
	PhaseStarted      Phase = "started"      // the guest confirmed that the process runs
	PhaseFirstOutput  Phase = "first_output" // the first byte of the job's output
	PhaseDestroyed    Phase = "destroyed"    // nothing of the sandbox is left on the host
)

// Outcome is how the process of an attempt ended, as the host saw it.
type Outcome struct {
	// Result is the host's view: success and failure by exit code, timed_out,
	// cancelled. For a GitHub job it is a fact about the runner process only.
	Result   Result
	ExitCode *int   // nil when no process was seen to end
	Signal   string // "SIGKILL", … when a signal ended it
	Reason   Reason
	LogLines int64 // lines that the host produced; the log is complete when all are stored
	Usage    Usage
	// Series is what the sandbox used over its time. The books keep it apart.
	Series UsageSeries `json:"-"`
	// BeforeStart says that no process of the job was ever started, so that
	// trying again elsewhere is safe.
	BeforeStart bool
}

// Usage is what an attempt used: of its process as its guest saw it, and of the
// whole sandbox as its host did.
type Usage struct {
	CPUTime      time.Duration
	MaxRSSBytes  int64
	DiskBytes    int64
	WallDuration time.Duration
	Sandbox      UsageTotals `json:",omitzero"`
}

// LeaseStatus is the answer to one renewed lease.
type LeaseStatus struct {
	AttemptID string
	Verdict   Verdict
	Reason    string
}

// Verdict is what a host must do with a sandbox.
type Verdict string

// The verdicts.
const (
	VerdictKeep   Verdict = "keep"   // renewed
	VerdictCancel Verdict = "cancel" // stop the job, report the outcome
	VerdictFenced Verdict = "fenced" // not yours any more: destroy it, report nothing
)

// Runner is a registered GitHub runner of one attempt.
type Runner struct {
	ID   int64
	Name string // "nimbus-<attempt id>"
	Org  string // the organisation that it is registered with; "" for the job's repository
}

// RunnerName is the name under which an attempt registers at GitHub. It is how
// in_progress is mapped back to the attempt.
func RunnerName(attemptID string) string { return "nimbus-" + attemptID }
