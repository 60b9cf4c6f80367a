package scheduler

import (
	"context"
	"errors"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// ErrRace in the error of a transaction says that it found, under its locks,
// something else than it had looked for before it took them.
var ErrRace = errors.New("lost a race against another transaction")

// Store keeps the scheduler's books; internal/store implements it. Errors
// carry a nimbus.Code: not_found, conflict (it exists already), unavailable.
type Store interface {
	// View runs f on one consistent state of the books.
	View(ctx context.Context, f func(Reader) error) error
	// Update runs f in one transaction and commits when f returns nil. It runs
	// f again from the start when another transaction got in the way, or f
	// returned ErrRace, so f must have no effect but through Tx.
	Update(ctx context.Context, f func(Tx) error) error
	// LogStored records that an attempt's log is stored up to lines, and tells
	// the job and whether that is all of it. changed is false when that was
	// known already or there is no such attempt in the org.
	LogStored(ctx context.Context, key nimbus.LogKey, lines int64) (jobID string, complete, changed bool, err error)
}

// Reader reads the books as of one moment.
type Reader interface {
	// Now is the database's clock at the beginning of the transaction.
	Now() time.Time

	// Job, Jobs and Events are for people: they take the org, and know nothing
	// beyond it. Jobs returns up to most jobs with an id below before.
	Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error)
	Jobs(ctx context.Context, orgID, before string, states []nimbus.State, most int) ([]nimbus.Job, error)
	Events(ctx context.Context, orgID, jobID string) ([]nimbus.JobEvent, error)

	JobRecord(ctx context.Context, jobID string) (*JobRecord, error)
	JobByIdempotencyKey(ctx context.Context, orgID, key string) (jobID string, err error)
	JobByGitHub(ctx context.Context, githubJobID int64) (jobID string, err error)
	Attempt(ctx context.Context, attemptID string) (*Attempt, error)
	OpenAttempts(ctx context.Context, hostID string) ([]*Attempt, error) // offered and live

	Host(ctx context.Context, hostID string) (*HostRecord, error)
	Hosts(ctx context.Context) ([]nimbus.Host, error)

	QueuedClasses(ctx context.Context) ([]nimbus.Class, error)
	// WaitingClasses are those of pending, queued and unschedulable jobs.
	WaitingClasses(ctx context.Context) ([]nimbus.Class, error)

	// What a sweep has to look at, at most so many. Times are compared to Now.
	ExpiredAttempts(ctx context.Context, most int) ([]string, error)
	DueJobs(ctx context.Context, most int) ([]string, error)
	JobsToCheck(ctx context.Context, most int) ([]string, error)
	RunnersToRemove(ctx context.Context, most int) ([]string, error)
	TokenTodos(ctx context.Context, most int) (map[string]TokenTodo, error)
}

// Tx changes the books.
type Tx interface {
	Reader

	// LockJob reads a job and keeps other transactions from changing it, its
	// attempts and its place in the queue until this one ends.
	LockJob(ctx context.Context, jobID string) (*JobRecord, error)
	// InsertJob adds a job as pending.
	InsertJob(ctx context.Context, j *JobRecord, actor string) error
	// MoveJob is the only way to another state. It refuses a move that the
	// table of nimbus.State doesn't have, keeps the queue in step, writes the
	// history, and saves what else changed in j.
	MoveJob(ctx context.Context, j *JobRecord, m Move) error
	// SaveJob saves j in the state that it is in.
	SaveJob(ctx context.Context, j *JobRecord) error
	// AddEvent adds to a job's history what is no move.
	AddEvent(ctx context.Context, j *JobRecord, e nimbus.JobEvent) error

	InsertAttempt(ctx context.Context, a *Attempt) error
	// SaveAttempt saves all but the log's progress. A row that changed since it
	// was read makes the transaction run again.
	SaveAttempt(ctx context.Context, a *Attempt) error
	SetLogTotal(ctx context.Context, attemptID string, lines int64) error
	DeleteLapsed(ctx context.Context, attemptID string) error
	MintFence(ctx context.Context) (int64, error)
	// RenewLease moves the end of a live lease of the host that has not
	// expired. ok is false when there is no such lease.
	RenewLease(ctx context.Context, hostID string, l nimbus.Lease, until time.Time) (jobID string, stopAt time.Time, ok bool, err error)
	TokenDone(ctx context.Context, attemptID string, todo TokenTodo) error

	InsertHost(ctx context.Context, h nimbus.Host) error
	UpdateHost(ctx context.Context, hostID, version string, inv nimbus.Inventory) error
	TouchHost(ctx context.Context, hostID string) error
	CoolHost(ctx context.Context, hostID string, until time.Time) error

	// Claim locks and returns up to n queued jobs of the classes, by rank.
	Claim(ctx context.Context, classIDs []string, n int) ([]*JobRecord, error)
	// NextPending locks and returns the oldest job of a flow in the backlog of
	// a class, nil when there is none that nobody else holds.
	NextPending(ctx context.Context, classID string, f Flow) (*JobRecord, error)
	QueueLength(ctx context.Context, classID string) (int, error)
	BacklogFlows(ctx context.Context, classID string) ([]Flow, error)
	FlowTag(ctx context.Context, id string) (FlowTag, error)
	SaveFlowTag(ctx context.Context, id, parent string, t FlowTag) error
	// VirtualTime is the lowest rank that waits in the queue, and the highest
	// tag that an org was ever given where nothing waits.
	VirtualTime(ctx context.Context) (int64, error)
	// WaitingJobs are pending and queued jobs of a class, UnschedulableJobs
	// those that are unschedulable for a reason.
	WaitingJobs(ctx context.Context, classID string, most int) ([]string, error)
	UnschedulableJobs(ctx context.Context, classID string, code nimbus.ReasonCode, most int) ([]string, error)

	// Repo returns the repo of that name, made in the default org if need be.
	Repo(ctx context.Context, name string) (id, orgID string, err error)
	// InsertDelivery is false when the ledger has the delivery already.
	InsertDelivery(ctx context.Context, d nimbus.Delivery) (isNew bool, err error)
	SetDeliveryOutcome(ctx context.Context, deliveryID string, o nimbus.DeliveryOutcome) error
	// AdvanceForgeJob records GitHub's status of one of its jobs. It is false,
	// and nothing is changed, when as much or more was known.
	AdvanceForgeJob(ctx context.Context, ev *nimbus.ForgeEvent) (forward bool, err error)
	// Purge removes deliveries and statuses of GitHub's jobs from before, up to
	// most of each, and tells how many went.
	Purge(ctx context.Context, before time.Time, most int) (int64, error)
}

// JobRecord is a job in the books: the Job, of whose Timeline only the times
// of the job itself are filled, and what only scheduling needs.
type JobRecord struct {
	nimbus.Job
	RepoID         string // "" for a native job
	AnyExecutor    bool   // the executor of Class is our choice
	IdempotencyKey string
	Rank           int64
	// Stop is how the job is to end when its attempt has stopped; a zero
	// Result means that nobody asked it to.
	Stop Ending
	// DueAt is when the present state has lasted too long, CheckAt when GitHub
	// is to be asked about the job, Checks how often that was in vain.
	DueAt, CheckAt time.Time
	Checks         int
}

// Ending is a result with its reason.
type Ending struct {
	Result nimbus.Result
	Reason nimbus.Reason
}

// Move is a change of state.
type Move struct {
	To     nimbus.State
	Result nimbus.Result // with StateFinished
	Reason nimbus.Reason
	Actor  string
	Detail string // for the history; the reason's message where empty
}

// AttemptState is where an attempt is in its life: offered, then live, then
// ended; or offered, then lapsed.
type AttemptState string

// The states of an attempt.
const (
	AttemptOffered AttemptState = "offered"
	AttemptLapsed  AttemptState = "lapsed" // not accepted in time; may still be, if nobody was offered the job since
	AttemptLive    AttemptState = "live"   // a host holds the lease
	AttemptEnded   AttemptState = "ended"  // never live again
)

// TokenTodo is what has to be done about the tokens of an attempt. It is
// written with the change that causes it and done after the commit.
type TokenTodo string

// What there is to do.
const (
	TokenActivate TokenTodo = "activate"
	TokenRevoke   TokenTodo = "revoke"
)

// Attempt is one execution of a job: an offer, and the lease that came of it.
type Attempt struct {
	nimbus.Lease
	JobID, OrgID, HostID string
	State                AttemptState
	ExpiresAt            time.Time // of the offer, then of the lease
	StopAt               time.Time // from when on the host is told to cancel; zero for never

	OfferedAt, AcceptedAt, SandboxReadyAt, StartedAt time.Time
	RunningAt, FirstOutputAt, EndedAt, DestroyedAt   time.Time

	Runner         nimbus.Runner // Name before GitHub is asked, ID after
	RemoveRunnerAt time.Time     // when to try to deregister it; zero for never
	TokenTodo      TokenTodo
	Outcome        *nimbus.Outcome // nil unless the host told
	Version        int64           // read only
}

// Stopping tells whether its host should stop the attempt by now.
func (a *Attempt) Stopping(now time.Time) bool {
	return a.State == AttemptLive && !a.StopAt.IsZero() && !a.StopAt.After(now)
}

// HostRecord is a host in the books.
type HostRecord struct {
	nimbus.Host
	CoolUntil time.Time // gets no offers before
}

// Flow is what fairness is between: the jobs of one repo of one org. Native
// jobs of an org are one flow, with no repo.
type Flow struct {
	OrgID, RepoID string
}

// FlowTag is the state of a flow in start-time fair queueing.
type FlowTag struct {
	Finish  int64 // finish tag of the job that it was given last
	Virtual int64 // of an org: the virtual time among its repos
}
