package nimbus

import "time"

// JobOutcome is a job as a summary looks at it.
type JobOutcome struct {
	AdmittedAt time.Time
	Result     Result            // "" while it has not ended
	Ran        time.Duration     // of one that ran and has ended, else negative
	Metadata   map[string]string // shared with other jobs: to be read alone
}

// JobBucket is how long a part of a trend is, of UTC.
type JobBucket string

// The buckets.
const (
	JobBucketHour JobBucket = "hour"
	JobBucketDay  JobBucket = "day"
)

// Length is how long one is, 0 for a word that is none.
func (b JobBucket) Length() time.Duration {
	const day = 24 * time.Hour
	return map[JobBucket]time.Duration{JobBucketHour: time.Hour, JobBucketDay: day}[b]
}

// SummaryWindow is the time that a summary is of, and its parts.
type SummaryWindow struct {
	Since, Until time.Time
	Bucket       JobBucket
	// CompleteSince is the time from which on jobs were looked at, where there were
	// too many to look at all; else zero.
	CompleteSince time.Time
}

// Summary is how the jobs of a time went.
type Summary struct {
	SummaryWindow
	All         JobsOutcome
	Values      []ValueOutcome // by value of the key, those with the most jobs first
	OtherValues int            // how many more there are, and their jobs together
	Other       JobsOutcome
	Keys        []MetadataKey // of a summary without a key: which there are
	OtherKeys   int
}

// ValueOutcome is how the jobs with a value went, "" for the key alone.
type ValueOutcome struct {
	Value string
	JobsOutcome
}

// JobsOutcome is how some jobs went.
type JobsOutcome struct {
	JobsCount
	Runs     int           // of so many it is known how long they ran
	P50, P95 time.Duration // 0 without runs
	Trend    []TrendPart   // by when they were admitted, one for each part of the time
}

// TrendPart is how the jobs of a part of the time went.
type TrendPart struct {
	Start time.Time
	JobsCount
}

// JobsCount is how many jobs ended how.
type JobsCount struct {
	Jobs      int // the sum of the others
	Succeeded int
	Failed    int // failed, timed out or lost
	Cancelled int
	Open      int // have not ended, or can't be run
}

// Add counts a job.
func (c *JobsCount) Add(r Result) {
	c.Jobs++
	switch r {
	case ResultSuccess:
		c.Succeeded++
	case ResultCancelled:
		c.Cancelled++
	case "":
		c.Open++
	default:
		c.Failed++
	}
}

// MetadataKey is a key of metadata, with how many jobs it is kept and how many
// values it has.
type MetadataKey struct {
	Key          string
	Jobs, Values int
}
