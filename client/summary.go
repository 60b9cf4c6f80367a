package client

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// SummaryFilter says which jobs to sum up, and how: those that pass all that is
// set.
type SummaryFilter struct {
	Since    time.Time         // admitted then or later; zero for 7 days before Until
	Until    time.Time         // admitted before; zero for now
	Key      string            // by the values of this key of their metadata; "" for all together, and which keys there are
	Bucket   nimbus.JobBucket  // of the trend; "" for what suits the time
	Labels   []string          // all of them, compared without case
	Metadata map[string]string // all of it; an empty value stands for any
	Repo     string            // "owner/name"
}

// Summary is how the jobs of a time went. Codes: invalid.
func (c *Client) Summary(ctx context.Context, f SummaryFilter) (nimbus.Summary, error) {
	answer, err := call(ctx, c.jobs.SummarizeJobs, &nimbusv1.SummarizeJobsRequest{Since: wire.Time(f.Since), Until: wire.Time(f.Until), Key: f.Key,
		Bucket: wire.JobBucket(f.Bucket), Labels: f.Labels, Metadata: f.Metadata, Repo: f.Repo})
	return wire.ToSummary(answer), err
}
