package nimbus

import "time"

// RunnerPlace says with whom the runners of an installation's jobs are
// registered. An installation without one has each at the repository of its job.
type RunnerPlace struct {
	InstallationID int64
	AppID          int64  // whose installation it is; 0 where that was not kept
	Organization   string // any repository of it may be given to the runner
	Group          string // that may use the runners, by its name
	GroupID        int64  // of GitHub
	ChangedAt      time.Time
}

// ScaleSet is a set of runners at GitHub with a queue of messages that tell of
// its jobs. They are fetched: nothing has to reach Nimbus from outside.
type ScaleSet struct {
	ID             string
	InstallationID int64
	AppID          int64  // whose installation it is; 0 where that was not kept
	Organization   string // that it is of
	Group          string
	GroupID        int64
	Name           string
	Labels         []string // what jobs may ask for
	MaxRunners     int      // as many jobs GitHub gives to it at once
	GitHubID       int64
	ChangedAt      time.Time
	State          ScaleSetState
}

// ScaleSetState is how listening to a scale set goes.
type ScaleSetState struct {
	HeardAt  time.Time // when GitHub answered last
	Trouble  string    // why it is not heard, "" while it is
	Assigned int       // jobs, as GitHub said last
	Running  int
	Session  string // that was open last, "" for none: whoever leads next ends it
}

// ScaleSetMessage is what GitHub says in the queue of a scale set.
type ScaleSetMessage struct {
	ID                int64
	Jobs              []ScaleSetJob
	Assigned, Running int // jobs of the scale set now
}

// ScaleSetJob is a job of a message. It is no word of truth, only of where to
// look: it has no id that anything else of GitHub's knows.
type ScaleSetJob struct {
	Kind      ScaleSetJobKind
	RequestID int64
	Repo      ForgeRepo
	RunID     int64
}

// ScaleSetJobKind is what a message says of a job.
type ScaleSetJobKind string

// The kinds.
const (
	ScaleSetJobAvailable ScaleSetJobKind = "JobAvailable" // it may be acquired
	ScaleSetJobAssigned  ScaleSetJobKind = "JobAssigned"
	ScaleSetJobStarted   ScaleSetJobKind = "JobStarted"
	ScaleSetJobCompleted ScaleSetJobKind = "JobCompleted"
)

// ScaleSetSession is who listens to a scale set: one at a time.
type ScaleSetSession struct {
	ID       string
	QueueURL string
	Token    string // a secret
}
