package nimbus

import (
	"slices"
	"time"
)

// State is where a job is in its life.
//
//	pending ─→ queued ─→ offered ─→ accepted ─→ running ─→ finished
//	   │          ↑__________│ not accepted within OfferTimeout: its rank is kept, not counted
//	   │          ↑______________________│ lease expired before running: counted, bounded
//	   │          ↑__________________________________│ lease expired, native and repeatable
//	   └→ unschedulable (also from queued; back to pending when a host or image changes)
//
// Every state but finished may end in finished; see transitions for which
// result each allows.
type State string

// The states. Pending is the backlog, queued the small promoted window that
// hosts claim from.
const (
	StatePending       State = "pending"
	StateQueued        State = "queued"
	StateOffered       State = "offered"
	StateAccepted      State = "accepted"
	StateRunning       State = "running"
	StateFinished      State = "finished"
	StateUnschedulable State = "unschedulable"
)

// Result is how a finished job ended.
type Result string

// The results. Failure is the job's own or one before its start, with the
// reason telling which; lost means that nobody can know how it ended.
const (
	ResultSuccess   Result = "success"
	ResultFailure   Result = "failure"
	ResultCancelled Result = "cancelled"
	ResultTimedOut  Result = "timed_out"
	ResultLost      Result = "lost"
)

// transitions is the whole table: for each state, the states that may follow.
// The store refuses every other move (invariant 3).
var transitions = map[State][]State{
	StatePending:       {StateQueued, StateUnschedulable, StateFinished},
	StateQueued:        {StateOffered, StatePending, StateUnschedulable, StateFinished},
	StateOffered:       {StateQueued, StateAccepted, StateFinished},
	StateAccepted:      {StateQueued, StateRunning, StateUnschedulable, StateFinished},
	StateRunning:       {StateQueued, StateFinished},
	StateUnschedulable: {StatePending, StateFinished},
	StateFinished:      {},
}

// endings is, for each state, the results with which it may become finished.
var endings = map[State][]Result{
	StatePending:       {ResultCancelled, ResultTimedOut},
	StateQueued:        {ResultCancelled, ResultTimedOut},
	StateOffered:       {ResultCancelled, ResultTimedOut},
	StateUnschedulable: {ResultCancelled, ResultTimedOut},
	StateAccepted:      {ResultFailure, ResultCancelled, ResultTimedOut},
	StateRunning:       {ResultSuccess, ResultFailure, ResultCancelled, ResultTimedOut, ResultLost},
}

// States returns all states in the order of a job's life.
func States() []State {
	return []State{StatePending, StateQueued, StateOffered, StateAccepted, StateRunning, StateFinished, StateUnschedulable}
}

// CanBecome tells whether a job in state s may move to next.
func (s State) CanBecome(next State) bool { return slices.Contains(transitions[s], next) }

// CanFinish tells whether a job in state s may become finished with result r.
func (s State) CanFinish(r Result) bool { return slices.Contains(endings[s], r) }

// Live tells whether a job in state s may have a sandbox somewhere.
func (s State) Live() bool { return s == StateAccepted || s == StateRunning }

// Source is where a job came from.
type Source string

// The sources. A native job is submitted through the API and its exit code is
// its result; a GitHub job belongs to GitHub, which alone says how it ended.
const (
	SourceNative Source = "native"
	SourceGitHub Source = "github"
)

// ReasonCode is a stable word for why a job is where it is.
type ReasonCode string

// The reasons. A job's own failure has none: its exit code tells it.
const (
	ReasonNone             ReasonCode = ""
	ReasonNoHost           ReasonCode = "no_host"            // no live host can serve the class
	ReasonUnknownLabel     ReasonCode = "unknown_label"      // runs-on has a label that means nothing
	ReasonContradiction    ReasonCode = "contradiction"      // runs-on contradicts itself
	ReasonUntrusted        ReasonCode = "untrusted_executor" // local executor without --allow-trusted-local
	ReasonImageNotFound    ReasonCode = "image_not_found"
	ReasonSandboxFailed    ReasonCode = "sandbox_failed"    // did not start or died under the job
	ReasonLeaseExpired     ReasonCode = "lease_expired"     // its host went silent
	ReasonAttemptsUsed     ReasonCode = "attempts_used"     // every attempt ended before the job began
	ReasonForge            ReasonCode = "forge"             // GitHub refused or said so
	ReasonForgeAway        ReasonCode = "forge_unavailable" // GitHub registers no runner now
	ReasonRanElsewhere     ReasonCode = "ran_elsewhere"     // another runner took it
	ReasonCancelledByUser  ReasonCode = "cancelled_by_user"
	ReasonCancelledByForge ReasonCode = "cancelled_by_forge"
	ReasonTimeout          ReasonCode = "timeout"          // ran longer than it may
	ReasonQueueTimeout     ReasonCode = "queue_timeout"    // waited longer than it may
	ReasonKilled           ReasonCode = "killed"           // its process was killed by a signal that we did not send
	ReasonLimit            ReasonCode = "resource_limit"   // out of memory, processes or disk
	ReasonOutputLimit      ReasonCode = "output_limit"     // wrote more log than it may
	ReasonWorkspace        ReasonCode = "workspace"        // its files could not be brought in
	ReasonGuestProtocol    ReasonCode = "guest_protocol"   // the sandbox broke the protocol
	ReasonUnreported       ReasonCode = "unreported"       // GitHub never said how it ended
	ReasonRunnerEnded      ReasonCode = "runner_ended"     // GitHub's runner ended before it had a job
	ReasonRunnerRefused    ReasonCode = "runner_refused"   // GitHub's runner says that it can't have jobs
	ReasonHostShutdown     ReasonCode = "host_unavailable" // the host gave it back before starting
)

// Reason is a ReasonCode with the sentence that a person reads.
type Reason struct {
	Code    ReasonCode
	Message string
}

// Job is one job of an org. Times are the database's clock in UTC; a zero time
// means that it has not happened.
type Job struct {
	ID     string
	OrgID  string
	Source Source
	Name   string // what a person calls it: the workflow job's name, or the command
	Repo   string // "owner/name" of a GitHub job, else empty
	Labels []string
	Class  Class
	// Metadata is what labels or the submission keep with the job; see
	// Requirements.
	Metadata map[string]string

	State  State
	Result Result // set once finished
	Reason Reason
	// ExitCode is that of the process in the last attempt, when one ended.
	// Nil means that none was seen, never 0.
	ExitCode *int

	AttemptID    string // the current or last attempt
	AttemptCount int    // attempts that count against MaxAttempts
	MaxAttempts  int
	Priority     int    // among the waiting jobs of its org; higher is sooner
	HostID       string // where the current or last attempt is
	RerunOf      string // the job that this one runs again
	Timeline     Timeline

	Spec   Spec      // what to run (native)
	GitHub GitHubJob // which job it is there (GitHub)

	HeldUntil time.Time // its sandbox stays until then, though the job has failed; zero: it does not

	LogLines    int64 // lines stored so far
	LogComplete bool  // every line of the last attempt is stored

	Usage UsageTotals // of the last attempt, once it has ended
}

// Timeline is when each phase of a job was reached, last attempt. It is what
// the product shows as "received → … → destroyed".
type Timeline struct {
	ReceivedAt     time.Time // the webhook or API request arrived
	AdmittedAt     time.Time // written to the database as pending or better
	QueuedAt       time.Time
	OfferedAt      time.Time
	AcceptedAt     time.Time
	SandboxReadyAt time.Time
	RunningAt      time.Time
	FirstOutputAt  time.Time
	FinishedAt     time.Time
	DestroyedAt    time.Time // the sandbox is gone and was checked to be
}

// Spec is what a native job runs.
type Spec struct {
	Command     []string          // argv; Command[0] is looked up in the sandbox's PATH
	Env         map[string]string // added to the image's environment
	WorkspaceID string            // sha256 of the tar.zst with the working tree, "" for none
	Timeout     time.Duration     // 0 means DefaultTimeout
	Repeatable  bool              // may be run again when its host is lost
	// QueueTimeout is how long it may wait for a host; 0 means as long as the
	// server lets jobs wait.
	QueueTimeout time.Duration `json:",omitempty"`
	// Hold is how long its sandbox stays for shells when its process has failed;
	// 0 for not at all.
	Hold time.Duration `json:",omitempty"`
}

// GitHubJob names a workflow job at GitHub.
type GitHubJob struct {
	InstallationID int64
	Owner, Repo    string
	JobID          int64
	RunID          int64
	RunAttempt     int64
	WorkflowName   string
	HeadBranch     string
	HeadSHA        string
	HTMLURL        string
}

// JobEvent is one entry of a job's history: every transition, and what is
// worth telling between them.
type JobEvent struct {
	JobID     string
	Seq       int64 // from 1, per job
	At        time.Time
	Kind      string // a State, or a Phase
	AttemptID string
	Actor     string // "system", "host:<id>", "user:<id>", "github"
	Detail    string
}

// Bounds of a job.
const (
	DefaultTimeout     = 6 * time.Hour
	MaxTimeout         = 5 * 24 * time.Hour // GitHub's own
	MaxQueueTimeout    = 7 * 24 * time.Hour
	DefaultMaxAttempts = 3
	// Priorities are few on purpose: each is a line of its own to wait in.
	MinPriority, MaxPriority = -10, 10
	MaxCommandBytes          = 128 << 10 // argv and environment together
	MaxLabels                = 100       // GitHub's own
	MaxLabelBytes            = 256
)
