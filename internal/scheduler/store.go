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
	// beyond it. Jobs returns up to PageSize jobs with an id below PageToken,
	// newest first.
	Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error)
	Jobs(ctx context.Context, orgID string, f JobFilter) ([]nimbus.Job, error)
	Events(ctx context.Context, orgID, jobID string, after int64, most int) ([]nimbus.JobEvent, error)

	// Usage is what an attempt of a job used, "" for its current or last one.
	// Codes: not_found.
	Usage(ctx context.Context, orgID, jobID, attemptID string) (JobUsage, error)
	// FinishedRuns are the last jobs of an org that ended in a time, the last one
	// first; HostJobs is what runs, by host.
	FinishedRuns(ctx context.Context, orgID string, since, until time.Time, most int) ([]nimbus.Run, error)
	HostJobs(ctx context.Context, most int) ([]nimbus.HostJob, error)
	// Outcomes calls each with the jobs that Jobs would return, in that order, and
	// has none of them in memory.
	Outcomes(ctx context.Context, orgID string, f JobFilter, each func(nimbus.JobOutcome)) error

	JobRecord(ctx context.Context, jobID string) (*JobRecord, error)
	JobByIdempotencyKey(ctx context.Context, orgID, key string) (jobID string, err error)
	JobByGitHub(ctx context.Context, githubJobID int64) (jobID string, err error)
	Attempt(ctx context.Context, attemptID string) (*Attempt, error)
	OpenAttempts(ctx context.Context, hostIDs []string) ([]*Attempt, error) // offered and live
	// Told is what hosts were told and may not have heard: offers that they may
	// accept still, leases that they are to stop by now, and shells that wait.
	Told(ctx context.Context, hostIDs []string) ([]Told, error)
	// WaitingShells are those that hosts are to come for, by host. Mostly there
	// are none.
	WaitingShells(ctx context.Context, most int) (map[string][]ShellCall, error)

	Host(ctx context.Context, hostID string) (*HostRecord, error)
	// Hosts are those with an id above after, in the order of their ids.
	Hosts(ctx context.Context, after string, most int) ([]nimbus.Host, error)
	// ChangedHosts are the hosts whose rows changed at since or later, but for
	// when they were seen; SeenHosts is that of all.
	ChangedHosts(ctx context.Context, since time.Time) ([]*HostRecord, error)
	SeenHosts(ctx context.Context) (map[string]Sighting, error)

	// QueuedClasses are the ids of the classes that have queued jobs; Classes
	// are those of the ids that are known.
	QueuedClasses(ctx context.Context) ([]string, error)
	Classes(ctx context.Context, ids []string) ([]nimbus.Class, error)
	// WaitingClasses are those of pending, queued and unschedulable jobs.
	WaitingClasses(ctx context.Context) ([]nimbus.Class, error)

	LimitsOf(ctx context.Context, orgID string) ([]Limit, error)
	// OrgWeight is an org's weight; RepoWeights are those of its repos that
	// were given one, by name, after a name.
	OrgWeight(ctx context.Context, orgID string) (int, error)
	RepoWeights(ctx context.Context, orgID, after string, most int) ([]Weight, error)

	// What a look at the queue needs. Everything is read from an index and up
	// to a bound, so that its cost doesn't grow with what waits.

	// Backlog tells who waits in the backlog of a class.
	Backlog(ctx context.Context, classID string) ([]Waiting, error)
	// CountBacklog counts a flow's jobs in the backlog with an id below before.
	CountBacklog(ctx context.Context, classID string, w Waiting, before string, most int) (int, error)
	// Window are the jobs of a class that hosts can claim, by rank.
	Window(ctx context.Context, classID string, most int) ([]QueuedJob, error)
	// VirtualTime is the highest rank that was ever claimed; FlowTagsNow are
	// the tags of flows, which are not locked.
	VirtualTime(ctx context.Context) (int64, error)
	FlowTagsNow(ctx context.Context, ids []string) (map[string]FlowTag, error)
	// RunningJobs are those that hosts have, or were offered.
	RunningJobs(ctx context.Context, most int) ([]RunningJob, error)
	// OrgDepth is what waits of an org in a class.
	OrgDepth(ctx context.Context, orgID, classID string, most int) (OrgDepth, error)
	// FullLimits are orgs behind one of which a limit is full, in the order of
	// their ids; FirstPending is the first job of each of an org's flows in the
	// backlog of a class.
	FullLimits(ctx context.Context, afterOrg string, most int) (orgIDs []string, err error)
	FirstPending(ctx context.Context, orgID, classID string, most int) ([]string, error)
	// Misplaced looks at so many unfinished jobs after one, and returns those
	// that are not in the table that their state says, and the last it saw.
	Misplaced(ctx context.Context, after Cursor, most int) (ids []string, last Cursor, err error)

	// What a sweep has to look at, at most so many. Times are compared to Now.
	ExpiredAttempts(ctx context.Context, most int) ([]string, error)
	DueJobs(ctx context.Context, most int) ([]string, error)
	JobsToCheck(ctx context.Context, most int) ([]string, error)
	RunnersToRemove(ctx context.Context, most int) ([]string, error)
	DueNotices(ctx context.Context, most int) (jobIDs []string, err error)

	DueReruns(ctx context.Context, most int) ([]RerunKey, error)

	// Notice is what is to be told of a job. Codes: not_found.
	Notice(ctx context.Context, jobID string) (Notice, error)

	// RerunPolicy is an org's; the zero one where it set none.
	RerunPolicy(ctx context.Context, orgID string) (nimbus.RerunPolicy, error)
	// RerunOfJob is what was made of the loss of a job, nil for nothing;
	// RerunJobs are the jobs that were lost in one attempt of a run.
	RerunOfJob(ctx context.Context, jobID string) (*Rerun, error)
	RerunJobs(ctx context.Context, k RerunKey, most int) ([]string, error)
	// CountReruns are those of an org that were asked for after a time, and
	// those that wait; CountRunReruns are those of one run, in all its attempts.
	CountReruns(ctx context.Context, orgID string, since time.Time) (asked, waiting int, err error)
	CountRunReruns(ctx context.Context, k RerunKey) (int, error)
	// TriesAnew is how often a job was tried anew by itself; CountReruns counts
	// these too.
	TriesAnew(ctx context.Context, jobID string) (int, error)
}

// Keys name rows that a transaction is about to ask for one by one.
type Keys struct {
	Attempts   []string // their jobs are locked with them
	Jobs       []string
	Deliveries []string
	GitHubJobs []int64
	Repos      []string // by name
}

// QueueKeys name what a transaction is about to ask for to fill windows.
type QueueKeys struct {
	Classes []string // whose windows
	Flows   []string // who is charged, or gets back
	Orgs    []string // of jobs that may be queued
}

// Tx changes the books. What it changes is gathered, and written at the latest
// when the transaction ends.
type Tx interface {
	Reader

	// Prefetch reads and locks rows, so that asking for them later costs
	// nothing. It is never needed but for speed.
	Prefetch(ctx context.Context, k Keys) error
	// PrefetchQueue is Prefetch for QueueHead, FlowTags, VirtualTime and Limits.
	PrefetchQueue(ctx context.Context, k QueueKeys) error
	// Changes counts what was changed: while it stays the same, nothing was.
	Changes() int

	// LockJob reads a job and keeps other transactions from changing it, its
	// attempts and its place in the queue until this one ends.
	LockJob(ctx context.Context, jobID string) (*JobRecord, error)
	// ScheduleNotice sets when to look whether there is something new to tell
	// of a job; SaveNotice saves one that is there.
	ScheduleNotice(ctx context.Context, jobID string, at time.Time) error
	SaveNotice(ctx context.Context, n Notice) error
	// LockRerunPolicy is RerunPolicy, and keeps others from counting an org's
	// reruns until this transaction ends.
	LockRerunPolicy(ctx context.Context, orgID string) (nimbus.RerunPolicy, error)
	SetRerunPolicy(ctx context.Context, orgID string, p nimbus.RerunPolicy) error
	// InsertRerun keeps that a job was lost in an attempt of a run, which is
	// looked at then. One that is kept already stays as it is.
	InsertRerun(ctx context.Context, k RerunKey, orgID, jobID string, due time.Time) error
	// DropRerunJob forgets that a job was lost in one.
	DropRerunJob(ctx context.Context, jobID string) error
	// TakeRerun returns one that is due, and keeps others from it until then;
	// nil when it isn't due any more. SaveRerun saves one that was taken. Codes:
	// conflict when somebody else has taken it since.
	TakeRerun(ctx context.Context, k RerunKey, until time.Time) (*Rerun, error)
	SaveRerun(ctx context.Context, r *Rerun) error
	// CancelRerun drops one that waits, whoever looks at it; InsertTryAnew keeps
	// that a job is tried anew by itself for the nth time.
	CancelRerun(ctx context.Context, k RerunKey, why string) error
	InsertTryAnew(ctx context.Context, orgID, jobID string, nth int) error
	// SetDeadline moves the time at which DueJobs tells of a job; the zero time
	// takes it away. Moves and saves of a job only ever bring it nearer.
	SetDeadline(ctx context.Context, jobID string, at time.Time) error
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
	// MintFences mints n fencing tokens and returns the last of them. rank is
	// the highest of the jobs that they are for: it moves the virtual time.
	MintFences(ctx context.Context, n int, rank int64) (int64, error)
	// RenewLeases moves the end of those leases that are live, their host's and
	// not expired, and returns these.
	RenewLeases(ctx context.Context, leases []HeldLease, until time.Time) ([]Renewal, error)

	// SaveUsage keeps what an attempt of a locked job used.
	SaveUsage(ctx context.Context, a *Attempt, s nimbus.UsageSeries) error
	// SaveLiveUsage keeps what attempts use whose leases are live and their
	// host's. The others are passed over.
	SaveLiveUsage(ctx context.Context, usages []AttemptUsage) error

	InsertHost(ctx context.Context, h nimbus.Host) error
	UpdateHost(ctx context.Context, hostID, version string, inv nimbus.Inventory) error
	// TouchHosts writes that hosts are here, and what they have free where that
	// is known.
	TouchHosts(ctx context.Context, hosts map[string]*nimbus.Capacity) error
	// Audit tells the audit ledger, with the transaction's other effects.
	Audit(ctx context.Context, e nimbus.AuditEvent) error
	// CordonHost keeps a host from new jobs, or no longer. Codes: not_found.
	CordonHost(ctx context.Context, hostID string, cordoned bool) error
	// RemoveHost takes a host away, and its token with it. Codes: not_found.
	RemoveHost(ctx context.Context, hostID string) error
	CoolHost(ctx context.Context, hostID string, until time.Time) error

	// Claim locks and returns the first n queued jobs of each class, by rank.
	// Jobs that another transaction holds are passed over.
	Claim(ctx context.Context, classIDs []string, n int) ([]*JobRecord, error)
	// QueueHead tells how full the window of a class is.
	QueueHead(ctx context.Context, classID string) (QueueHead, error)
	// Newcomers are the pending jobs of a class that this transaction made or
	// brought back, and that are not in the backlog yet.
	Newcomers(classID string) []*JobRecord
	// NextPending locks and returns up to n jobs of each flow in the backlog of
	// a class, oldest first, but for those that this transaction changed or
	// others hold.
	NextPending(ctx context.Context, classID string, from []Behind, n int) ([]*JobRecord, error)
	// QueuedOf locks and returns up to n queued jobs of an org, by rank. Jobs
	// that another transaction holds are passed over.
	QueuedOf(ctx context.Context, orgID string, n int) ([]*JobRecord, error)
	// FlowTags locks and returns the tags of flows.
	FlowTags(ctx context.Context, ids []string) (map[string]FlowTag, error)
	SaveFlowTag(ctx context.Context, id, parent string, t FlowTag) error
	// SetWeight gives an org its weight, or one of its repos. Codes: not_found.
	SetWeight(ctx context.Context, orgID string, w Weight) error
	// PutBack puts a job into the table that its state says, if it is not
	// there, and tells whether that was so.
	PutBack(ctx context.Context, jobID string) (bool, error)
	// Limits returns the limits of orgs; UseLimit counts up or down, at the end of
	// the transaction. Who counts up has locked the tag of the org, so that
	// nobody else does; that a limit isn't passed is checked once more then.
	Limits(ctx context.Context, orgIDs []string) ([]Limit, error)
	UseLimit(ctx context.Context, id string, by int) error
	SetLimit(ctx context.Context, l Limit) error
	DropLimit(ctx context.Context, orgID string, kind LimitKind, name string) error // Codes: not_found.
	// WaitingJobs are pending and queued jobs of a class, StuckJobs those that
	// are unschedulable for a reason.
	WaitingJobs(ctx context.Context, classID string, most int) ([]string, error)
	StuckJobs(ctx context.Context, classID string, code nimbus.ReasonCode, most int) ([]string, error)

	// Repo returns the repo of that name, made in its owner's org if need be.
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
	IdempotentSum  string // of what the key was used for; "" for a job from before there were such
	Rank           int64
	Cost           int64    // what its flow was charged for it, CPU-milliseconds
	LimitKeys      []string // limits that it holds a place of
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
	// Cause is why a job is queued again, for who counts. The books don't have it.
	Cause nimbus.ReasonCode
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

// Attempt is one execution of a job: an offer, and the lease that came of it.
type Attempt struct {
	nimbus.Lease
	JobID, OrgID, HostID string
	State                AttemptState
	ExpiresAt            time.Time // of the offer, then of the lease
	StopAt               time.Time // from when on the host is told to cancel; zero for never

	OfferedAt, AcceptedAt, SandboxReadyAt, StartedAt time.Time
	RunningAt, FirstOutputAt, EndedAt, DestroyedAt   time.Time

	Runner         nimbus.Runner   // Name before GitHub is asked, ID after
	RemoveRunnerAt time.Time       // when to try to deregister it; zero for never
	TokenHash      string          // of the token that it may call Nimbus with, while it is live and RunningAt is set
	Outcome        *nimbus.Outcome // nil unless the host told
	Origin         nimbus.Origin   // of its sandbox; "" where that was not told
	Version        int64           // read only
}

// Stopping tells whether its host should stop the attempt by now.
func (a *Attempt) Stopping(now time.Time) bool {
	return a.State == AttemptLive && !a.StopAt.IsZero() && !a.StopAt.After(now)
}

// Told is an offer that a host was made, or a lease that it is to stop.
type Told struct {
	HostID string
	Offer  nimbus.Offer // of a lease that is to stop, only the lease
	Cancel bool
	Shell  string // id of one that waits for the host; then only this and the attempt are set
}

// HostRecord is a host in the books.
type HostRecord struct {
	nimbus.Host
	CoolUntil time.Time // gets no offers before
	Removed   bool      // only ChangedHosts tells of such
}

// Sighting is what a host told when it was seen last.
type Sighting struct {
	At   time.Time
	Warm []string // ids of the classes for which it has sandboxes ready
}

// Flow is what fairness is between: the jobs of one repo of one org. Native
// jobs of an org are one flow, with no repo.
type Flow struct {
	OrgID, RepoID string
}

// Waiting is a flow with jobs of one priority in a backlog.
type Waiting struct {
	Flow
	Priority int
}

// Behind is a flow in a backlog from behind a job on; "" is from its first.
type Behind struct {
	Waiting
	JobID string
}

// FlowTag is the state of a flow in start-time fair queueing. Costs and times
// are in CPU-milliseconds at the usual weight.
type FlowTag struct {
	Finish   int64 // finish tag of the job that it was given last
	Start    int64 // start tag of that job
	Virtual  int64 // of an org: the virtual time among its repos
	Weight   int64 // percent of the usual share; not saved with the tag
	Expected int64 // what its next job is taken to cost; 0 while nothing is known
}

// DefaultWeight is the weight of a flow that nobody gave one.
const DefaultWeight = 100

// QueueHead is the state of a class's window.
type QueueHead struct {
	Length  int   // jobs that hosts can claim
	Highest int64 // rank among them
	Backlog bool  // there are more behind
}

// HeldLease is a lease with who says that it holds it.
type HeldLease struct {
	nimbus.Lease
	HostID string
}

// AttemptUsage is what an attempt used, as its host says.
type AttemptUsage struct {
	HeldLease
	Series nimbus.UsageSeries
}

// JobUsage is what one attempt of a job used; a series without points where
// nothing was told.
type JobUsage struct {
	AttemptID string
	Totals    nimbus.UsageTotals
	Series    nimbus.UsageSeries
}

// Renewal is a lease that was renewed.
type Renewal struct {
	HeldLease
	JobID  string
	StopAt time.Time // from when on the host should stop it; zero for never
}

// QueuedJob is a job that hosts can claim.
type QueuedJob struct {
	ID, OrgID string
	Rank      int64
}

// RunningJob is a job that a host has, or was offered.
type RunningJob struct {
	Flow
	ClassID, HostID string
	AcceptedAt      time.Time // zero while it is offered
}

// OrgDepth is what waits of an org in a class.
type OrgDepth struct {
	Queued, Pending, Stuck int
	More                   bool   // than was counted
	Oldest                 string // id of the pending or queued job that came first; "" for none
}

// Cursor is a place among unfinished jobs; the zero one is before all.
type Cursor struct {
	OrgID, JobID string
}

// Kinds of limit and what is set about shares, in the words of the house.
type (
	Limit     = nimbus.Limit
	LimitKind = nimbus.LimitKind
	Weight    = nimbus.Weight
)

// The kinds of limit.
const (
	LimitOrg   = nimbus.LimitOrg
	LimitRepo  = nimbus.LimitRepo
	LimitLabel = nimbus.LimitLabel
)
