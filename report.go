package nimbus

import "time"

// Run is a job that has ended, as a report looks at it: with its last attempt.
type Run struct {
	JobID, Name, Repo string
	Class             Class
	Result            Result
	Reason            ReasonCode
	Origin            Origin // of its sandbox; "" where that was not told

	QueuedAt, AcceptedAt, SandboxReadyAt, RunningAt, FinishedAt time.Time

	Usage UsageTotals
}

// RunPhase is a part of a job's life, as reports measure it.
type RunPhase string

// The parts, in their order.
const (
	RunPhaseQueue   RunPhase = "queue"   // until a host accepted it
	RunPhaseSandbox RunPhase = "sandbox" // until that was ready
	RunPhaseStart   RunPhase = "start"   // until the job ran in it
	RunPhaseRun     RunPhase = "run"     // to its end
)

// RunPhases returns all of them.
func RunPhases() []RunPhase {
	return []RunPhase{RunPhaseQueue, RunPhaseSandbox, RunPhaseStart, RunPhaseRun}
}

// Took is how long a part took, false where it was not reached.
func (r Run) Took(p RunPhase) (time.Duration, bool) {
	var from, to time.Time
	switch p {
	case RunPhaseQueue:
		from, to = r.QueuedAt, r.AcceptedAt
	case RunPhaseSandbox:
		from, to = r.AcceptedAt, r.SandboxReadyAt
	case RunPhaseStart:
		from, to = r.SandboxReadyAt, r.RunningAt
	case RunPhaseRun:
		from, to = r.RunningAt, r.FinishedAt
	}
	if from.IsZero() || to.Before(from) {
		return 0, false
	}
	return to.Sub(from), true
}

// Report is what the jobs of an org that ended of late say together.
type Report struct {
	Since, Until time.Time
	Runs         int
	Sampled      bool // there were more: of each part of the time the last ones were taken
	Classes      []ClassReport
	Regressions  []Regression
	Advice       []Advice
}

// ClassReport is how the jobs of a class went.
type ClassReport struct {
	Class         Class
	Runs, Failed  int // Failed neither succeeded nor were cancelled
	Started, Warm int // of how many it is known where their sandboxes came from, and how many of these had waited
	Phases        []PhaseReport
}

// PhaseReport is how long a part of a job's life took.
type PhaseReport struct {
	Phase         RunPhase
	Runs          int
	P50, P95, P99 time.Duration
}

// Regression is a part that takes longer than in the past: of a class, or for the
// run, of a job of it.
type Regression struct {
	Class      Class
	Phase      RunPhase
	Name, Repo string    // of the job, for its run
	Since      time.Time // from when on it is looked at whether it takes longer
	// Medians of so many runs.
	BeforeRuns, AfterRuns int
	Before, After         time.Duration
}

// Resource is what a job has an amount of.
type Resource string

// The resources.
const (
	ResourceCPU    Resource = "cpu"    // in CPUs
	ResourceMemory Resource = "memory" // in MiB
)

// Advice is a size that would do for a job.
type Advice struct {
	Name, Repo  string
	Class       Class
	Resource    Resource
	Runs        int     // that say so, the last of it
	Has, Enough int     // what it has, and what would do
	Mean, Most  float64 // what it used, and the most that any run did
	SavedHours  float64 // CPU-hours or GiB-hours that were kept for nothing by the runs looked at
	Label       string  // what to write in runs-on
}

// HostJob is a job that a host runs, with what it uses.
type HostJob struct {
	HostID, JobID, OrgID, AttemptID string
	Name, Repo                      string
	Class                           Class
	AcceptedAt                      time.Time
	ToldAt                          time.Time // when its use was told; zero before it was
	CPUs                            float64
	MemoryBytes                     int64
}
