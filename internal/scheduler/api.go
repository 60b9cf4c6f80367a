package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Forge is what the scheduler needs of GitHub. Errors carry a nimbus.Code:
// conflict (the runner's name is taken), not_found (GitHub no longer knows the
// job), forbidden (the owner's settings refuse it), unavailable (ask again).
type Forge interface {
	// CreateRunner registers a runner for one job and returns its single-use
	// configuration, a secret.
	CreateRunner(ctx context.Context, job nimbus.GitHubJob, name string, labels []string) (r nimbus.Runner, jit string, err error)
	// JobStatus reads a job as GitHub has it now.
	JobStatus(ctx context.Context, job nimbus.GitHubJob) (nimbus.ForgeEvent, error)
	// RemoveRunner deregisters a runner that never got a job. A runner that is
	// gone already is no error; one that is running a job is a conflict.
	RemoveRunner(ctx context.Context, job nimbus.GitHubJob, r nimbus.Runner) error
}

// JobTokens makes the tokens that jobs call Nimbus with.
type JobTokens interface {
	// MintJob makes a token, and the hash that is all the books keep of it.
	MintJob() (token, hash string)
}

// Submission is a native job as its submitter wants it.
type Submission struct {
	Name  string       // what a person calls it; "" means the command
	Class nimbus.Class // zero fields mean the defaults, no executor the best there is
	Spec  nimbus.Spec
	// Labels are what a workflow would write in runs-on. Where Class says
	// otherwise, it counts.
	Labels         []string
	Metadata       map[string]string // kept with the job, besides that of Labels
	Priority       int               // among the jobs of its org, higher is sooner
	IdempotencyKey string            // at most MaxIdempotencyKeyBytes; "" for none
	ReceivedAt     time.Time         // when the request arrived; zero means now
}

// JobFilter says which jobs to list: those that pass all that is set.
type JobFilter struct {
	States    []nimbus.State
	Result    nimbus.Result     // of finished jobs
	Labels    []string          // all of them, compared without case
	Metadata  map[string]string // all of it; an empty value stands for any
	Repo      string            // "owner/name"
	Since     time.Time         // admitted then or later, to the millisecond
	Until     time.Time         // admitted before
	PageSize  int               // at most MaxPageSize; 0 means DefaultPageSize
	PageToken string            // of the page before; "" for the newest
}

// JobPage is one page of jobs, newest first.
type JobPage struct {
	Jobs          []nimbus.Job
	NextPageToken string // "" on the last page
}

// PollResult is what a host has to do.
type PollResult struct {
	Offers []nimbus.Offer // to accept within nimbus.OfferTimeout
	Cancel []string       // attempts of this host that should stop now
	Shells []ShellCall    // that somebody waits for
}

// ShellCall asks a host for a shell in one of its sandboxes.
type ShellCall struct{ ShellID, AttemptID string }

// Bounds of a caller's input. Beyond them a call is refused.
const (
	DefaultPageSize        = 50
	MaxPageSize            = 200
	MaxIdempotencyKeyBytes = 128
	MaxHostNameBytes       = 64
	MaxPollWait            = 30 * time.Second // longer waits are cut to this
	MaxLeasesPerCall       = 1024
)
