package client

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Usage is what one attempt of a job used of its host: in all, and over its time.
type Usage struct {
	AttemptID string // "" where no host had the job yet
	Totals    nimbus.UsageTotals
	Series    nimbus.UsageSeries
}

// Usage tells what an attempt of a job used, "" for its current or last one. Of
// one that runs, it is some seconds old. Codes: not_found.
func (c *Client) Usage(ctx context.Context, jobID, attemptID string) (Usage, error) {
	answer, err := call(ctx, c.jobs.GetUsage, &nimbusv1.GetUsageRequest{JobId: jobID, AttemptId: attemptID})
	return Usage{AttemptID: answer.GetAttemptId(), Totals: wire.ToUsageTotals(answer.GetTotals()), Series: wire.ToUsageSeries(answer.GetSeries())}, err
}
