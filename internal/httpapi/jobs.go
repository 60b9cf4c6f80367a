package httpapi

import (
	"connectrpc.com/connect"
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/report"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// jobService implements nimbusv1connect.JobServiceHandler.
type jobService struct{ api *api }

func (s jobService) SubmitJob(ctx context.Context, r *connect.Request[nimbusv1.SubmitJobRequest]) (*connect.Response[nimbusv1.SubmitJobResponse], error) {
	c := callerOf(ctx)
	p := c.Principal
	p.OrgID = c.org
	j, err := s.api.Jobs.Submit(ctx, p, scheduler.Submission{
		Name: r.Msg.GetName(), Class: wire.ToClass(r.Msg.GetClass()), Spec: wire.ToSpec(r.Msg.GetSpec()),
		Labels: r.Msg.GetLabels(), Metadata: r.Msg.GetMetadata(), IdempotencyKey: r.Msg.GetIdempotencyKey(),
		Priority: int(r.Msg.GetPriority()),
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.SubmitJobResponse{Job: wire.Job(j)}), nil
}

func (s jobService) GetJob(ctx context.Context, r *connect.Request[nimbusv1.GetJobRequest]) (*connect.Response[nimbusv1.GetJobResponse], error) {
	org := callerOf(ctx).org
	j, err := s.api.Jobs.Job(ctx, org, r.Msg.GetJobId())
	if err != nil {
		return nil, err
	}
	out := &nimbusv1.GetJobResponse{Job: wire.Job(j)}
	if j.State == nimbus.StatePending || j.State == nimbus.StateQueued {
		place, err := s.api.Jobs.Place(ctx, org, j.ID)
		if err != nil {
			return nil, err
		}
		out.Place = wire.QueuePlace(place)
	}
	return connect.NewResponse(out), nil
}

func (s jobService) ListJobs(ctx context.Context, r *connect.Request[nimbusv1.ListJobsRequest]) (*connect.Response[nimbusv1.ListJobsResponse], error) {
	f := scheduler.JobFilter{
		PageSize: int(r.Msg.GetPageSize()), PageToken: r.Msg.GetPageToken(), Result: wire.ToResult(r.Msg.GetResult()),
		Labels: r.Msg.GetLabels(), Metadata: r.Msg.GetMetadata(), Repo: r.Msg.GetRepo(),
		Since: wire.ToTime(r.Msg.GetSince()), Until: wire.ToTime(r.Msg.GetUntil()),
	}
	if f.Result == "" && r.Msg.GetResult() != 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "result %d is none", r.Msg.GetResult())
	}
	for _, state := range r.Msg.GetStates() {
		s := wire.ToState(state)
		if s == "" {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "state %d is none", state)
		}
		f.States = append(f.States, s)
	}
	page, err := s.api.Jobs.Jobs(ctx, callerOf(ctx).org, f)
	if err != nil {
		return nil, err
	}
	out := &nimbusv1.ListJobsResponse{NextPageToken: page.NextPageToken}
	for _, j := range page.Jobs {
		out.Jobs = append(out.Jobs, wire.Job(j))
	}
	return connect.NewResponse(out), nil
}

func (s jobService) SummarizeJobs(ctx context.Context, r *connect.Request[nimbusv1.SummarizeJobsRequest]) (*connect.Response[nimbusv1.SummarizeJobsResponse], error) {
	f := scheduler.SummaryFilter{Since: wire.ToTime(r.Msg.GetSince()), Until: wire.ToTime(r.Msg.GetUntil()), Key: r.Msg.GetKey(),
		Bucket: wire.ToJobBucket(r.Msg.GetBucket()), Labels: r.Msg.GetLabels(), Metadata: r.Msg.GetMetadata(), Repo: r.Msg.GetRepo()}
	if f.Bucket == "" && r.Msg.GetBucket() != 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "bucket %d is none", r.Msg.GetBucket())
	}
	var sum *report.Summary
	window, err := s.api.Jobs.Outcomes(ctx, callerOf(ctx).org, f, func() func(nimbus.JobOutcome) {
		sum = report.NewSummary(f.Key)
		return sum.Add
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(wire.Summary(sum.Of(window))), nil
}

func (s jobService) ListJobEvents(ctx context.Context, r *connect.Request[nimbusv1.ListJobEventsRequest]) (*connect.Response[nimbusv1.ListJobEventsResponse], error) {
	events, next, err := s.api.Jobs.EventPage(ctx, callerOf(ctx).org, r.Msg.GetJobId(), int(r.Msg.GetPageSize()), r.Msg.GetPageToken())
	return reply(&nimbusv1.ListJobEventsResponse{Events: messages(events, wire.Event), NextPageToken: next}, err)
}

func (s jobService) GetUsage(ctx context.Context, r *connect.Request[nimbusv1.GetUsageRequest]) (*connect.Response[nimbusv1.GetUsageResponse], error) {
	u, err := s.api.Jobs.Usage(ctx, callerOf(ctx).org, r.Msg.GetJobId(), r.Msg.GetAttemptId())
	return reply(&nimbusv1.GetUsageResponse{AttemptId: u.AttemptID, Totals: wire.UsageTotals(u.Totals), Series: wire.UsageSeries(u.Series)}, err)
}

func (s jobService) CancelJob(ctx context.Context, r *connect.Request[nimbusv1.CancelJobRequest]) (*connect.Response[nimbusv1.CancelJobResponse], error) {
	c := callerOf(ctx)
	j, err := s.api.Jobs.Cancel(ctx, c.Principal, c.org, r.Msg.GetJobId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.CancelJobResponse{Job: wire.Job(j)}), nil
}

func (s jobService) RerunJob(ctx context.Context, r *connect.Request[nimbusv1.RerunJobRequest]) (*connect.Response[nimbusv1.RerunJobResponse], error) {
	c := callerOf(ctx)
	j, err := s.api.Jobs.Rerun(ctx, c.Principal, c.org, r.Msg.GetJobId(), r.Msg.GetIdempotencyKey())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.RerunJobResponse{Job: wire.Job(j)}), nil
}

func (s jobService) SetJobPriority(ctx context.Context, r *connect.Request[nimbusv1.SetJobPriorityRequest]) (*connect.Response[nimbusv1.SetJobPriorityResponse], error) {
	c := callerOf(ctx)
	j, err := s.api.Jobs.SetPriority(ctx, c.Principal, c.org, r.Msg.GetJobId(), int(r.Msg.GetPriority()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.SetJobPriorityResponse{Job: wire.Job(j)}), nil
}

func (s jobService) ReleaseJob(ctx context.Context, r *connect.Request[nimbusv1.ReleaseJobRequest]) (*connect.Response[nimbusv1.ReleaseJobResponse], error) {
	c := callerOf(ctx)
	j, err := s.api.Jobs.Release(ctx, c.Principal, c.org, r.Msg.GetJobId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.ReleaseJobResponse{Job: wire.Job(j)}), nil
}
