package nimbus

import "time"

// Delivery is a webhook as it was received, after its signature was verified.
type Delivery struct {
	ID         string // X-GitHub-Delivery; the same on a redelivery
	Event      string // X-GitHub-Event
	Action     string
	ReceivedAt time.Time
	BodySHA256 string
	// InstallationID is whose events these are, 0 for those of the App itself.
	// It is not in the ledger.
	InstallationID int64
}

// DeliveryOutcome is what became of a delivery.
type DeliveryOutcome string

// The outcomes.
const (
	DeliveryAccepted  DeliveryOutcome = "accepted"
	DeliveryIgnored   DeliveryOutcome = "ignored"
	DeliveryDuplicate DeliveryOutcome = "duplicate"
)

// ForgeEvent is what a workflow_job delivery says, parsed and bounded.
type ForgeEvent struct {
	Status     ForgeStatus
	Demand     bool   // action and status both say queued: start something
	Conclusion string // success, failure, cancelled, skipped, timed_out, … once completed
	Job        GitHubJob
	Name       string
	Labels     []string
	RunnerID   int64  // 0 when none is assigned
	RunnerName string // what GitHub calls the runner that has it
	// CreatedAt and StartedAt are GitHub's clock, from the signed body.
	CreatedAt, StartedAt, CompletedAt time.Time
}

// ForgeStatus is GitHub's status of a job. It only moves forward.
type ForgeStatus string

// The statuses in their order.
const (
	ForgeWaiting    ForgeStatus = "waiting"
	ForgeQueued     ForgeStatus = "queued"
	ForgeInProgress ForgeStatus = "in_progress"
	ForgeCompleted  ForgeStatus = "completed"
)

// Rank orders the statuses; an event with a lower rank than the one known is
// late and has no effect. An unknown status has rank 0.
func (s ForgeStatus) Rank() int {
	switch s {
	case ForgeWaiting:
		return 1
	case ForgeQueued:
		return 2
	case ForgeInProgress:
		return 3
	case ForgeCompleted:
		return 4
	}
	return 0
}

// SentDelivery is one sending of a webhook, as the forge remembers it.
type SentDelivery struct {
	ID     int64  // of this sending
	GUID   string // of the event: the Delivery's ID, and the same when it is sent again
	Event  string
	SentAt time.Time // the forge's clock
	Status int       // of the answer, 0 when none came
}

// ForgeRepo is a repository, as an installation of the App sees it.
type ForgeRepo struct {
	InstallationID int64
	Owner, Name    string
}

// ForgeRun is a workflow run.
type ForgeRun struct {
	ID                   int64
	StartedAt, UpdatedAt time.Time // the forge's clock
}

// ForgeRunner is a runner that is registered with a repository.
type ForgeRunner struct {
	Runner
	Online, Busy bool
}
