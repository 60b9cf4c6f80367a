package client

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// JobInLine returns one job, and where it stands if it waits to be claimed; nil
// if it doesn't. Codes: not_found.
func (c *Client) JobInLine(ctx context.Context, jobID string) (nimbus.Job, *nimbus.QueuePlace, error) {
	answer, err := call(ctx, c.jobs.GetJob, &nimbusv1.GetJobRequest{JobId: jobID})
	return wire.ToJob(answer.GetJob()), wire.ToQueuePlace(answer.GetPlace()), err
}

// Rerun runs a native job that has ended again, as a new job; the key makes
// repeating that safe, "" for none. A job of GitHub's is begun anew by GitHub, and
// returned itself. Codes: not_found, conflict, forbidden.
func (c *Client) Rerun(ctx context.Context, jobID, idempotencyKey string) (nimbus.Job, error) {
	answer, err := call(ctx, c.jobs.RerunJob, &nimbusv1.RerunJobRequest{JobId: jobID, IdempotencyKey: idempotencyKey})
	return wire.ToJob(answer.GetJob()), err
}

// SetPriority moves a waiting job before or behind others of its org. Codes:
// not_found, invalid, conflict for one that waits no more.
func (c *Client) SetPriority(ctx context.Context, jobID string, priority int) (nimbus.Job, error) {
	answer, err := call(ctx, c.jobs.SetJobPriority, &nimbusv1.SetJobPriorityRequest{JobId: jobID, Priority: int32(priority)})
	return wire.ToJob(answer.GetJob()), err
}

// Queue tells what waits and runs, by class: those with most that waits first.
func (c *Client) Queue(ctx context.Context) ([]nimbus.QueueClass, error) {
	answer, err := call(ctx, c.queue.GetQueue, &nimbusv1.GetQueueRequest{})
	var out []nimbus.QueueClass
	for _, q := range answer.GetClasses() {
		out = append(out, wire.ToQueueClass(q))
	}
	return out, err
}

// Limits lists all limits of the org, by kind and name.
func (c *Client) Limits(ctx context.Context) (limits []nimbus.Limit, err error) {
	for request := (&nimbusv1.ListLimitsRequest{PageSize: 200}); ; {
		answer, err := call(ctx, c.queue.ListLimits, request)
		if err != nil {
			return nil, err
		}
		for _, l := range answer.GetLimits() {
			limits = append(limits, wire.ToLimit(l))
		}
		if request.PageToken = answer.GetNextPageToken(); request.PageToken == "" {
			return limits, nil
		}
	}
}

// SetLimit bounds how many jobs may be on hosts, or next for them, at once.
// Codes: invalid, too_large.
func (c *Client) SetLimit(ctx context.Context, kind nimbus.LimitKind, name string, most int) error {
	_, err := call(ctx, c.queue.SetLimit, &nimbusv1.SetLimitRequest{Kind: wire.LimitKind(kind), Name: name, Most: int32(most)})
	return err
}

// DeleteLimit takes a limit away. Codes: not_found.
func (c *Client) DeleteLimit(ctx context.Context, kind nimbus.LimitKind, name string) error {
	_, err := call(ctx, c.queue.DeleteLimit, &nimbusv1.DeleteLimitRequest{Kind: wire.LimitKind(kind), Name: name})
	return err
}

// Weights lists the org's own weight, first, and those of its repositories
// that have another than the usual one.
func (c *Client) Weights(ctx context.Context) (weights []nimbus.Weight, err error) {
	for request := (&nimbusv1.ListWeightsRequest{PageSize: 200}); ; {
		answer, err := call(ctx, c.queue.ListWeights, request)
		if err != nil {
			return nil, err
		}
		for _, w := range answer.GetWeights() {
			weights = append(weights, wire.ToWeight(w))
		}
		if request.PageToken = answer.GetNextPageToken(); request.PageToken == "" {
			return weights, nil
		}
	}
}

// SetRepoWeight gives a repository its weight among those of its org. Codes:
// invalid, not_found.
func (c *Client) SetRepoWeight(ctx context.Context, repo string, percent int) error {
	_, err := call(ctx, c.queue.SetRepoWeight, &nimbusv1.SetRepoWeightRequest{Repo: repo, Percent: int32(percent)})
	return err
}

// SetOrgWeight gives an org, by its id or name, its weight among all. Codes:
// invalid, not_found, forbidden.
func (c *Client) SetOrgWeight(ctx context.Context, org string, percent int) error {
	_, err := call(ctx, c.queue.SetOrgWeight, &nimbusv1.SetOrgWeightRequest{Org: org, Percent: int32(percent)})
	return err
}
