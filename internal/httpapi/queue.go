package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Queue is what waits, and who gets how much.
type Queue interface {
	Queue(ctx context.Context, orgID string) ([]nimbus.QueueClass, error)
	Limits(ctx context.Context, orgID string, size int, after string) (limits []nimbus.Limit, next string, err error)
	SetLimit(ctx context.Context, p nimbus.Principal, l nimbus.Limit) error
	DropLimit(ctx context.Context, p nimbus.Principal, orgID string, kind nimbus.LimitKind, name string) error
	Weights(ctx context.Context, orgID string, size int, after string) (weights []nimbus.Weight, next string, err error)
	SetWeight(ctx context.Context, p nimbus.Principal, orgID string, w nimbus.Weight) error
}

// queueService implements nimbusv1connect.QueueServiceHandler.
type queueService struct{ api *api }

func (s queueService) GetQueue(ctx context.Context, _ *connect.Request[nimbusv1.GetQueueRequest]) (*connect.Response[nimbusv1.GetQueueResponse], error) {
	classes, err := s.api.Queue.Queue(ctx, callerOf(ctx).org)
	if err != nil {
		return nil, err
	}
	out := &nimbusv1.GetQueueResponse{}
	for _, q := range classes {
		out.Classes = append(out.Classes, wire.QueueClass(q))
	}
	return connect.NewResponse(out), nil
}

func (s queueService) ListLimits(ctx context.Context, r *connect.Request[nimbusv1.ListLimitsRequest]) (*connect.Response[nimbusv1.ListLimitsResponse], error) {
	limits, next, err := s.api.Queue.Limits(ctx, callerOf(ctx).org, int(r.Msg.GetPageSize()), r.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	out := &nimbusv1.ListLimitsResponse{NextPageToken: next}
	for _, l := range limits {
		out.Limits = append(out.Limits, wire.Limit(l))
	}
	return connect.NewResponse(out), nil
}

func (s queueService) SetLimit(ctx context.Context, r *connect.Request[nimbusv1.SetLimitRequest]) (*connect.Response[nimbusv1.SetLimitResponse], error) {
	c := callerOf(ctx)
	err := s.api.Queue.SetLimit(ctx, c.Principal, nimbus.Limit{OrgID: c.org, Kind: wire.ToLimitKind(r.Msg.GetKind()), Name: r.Msg.GetName(),
		Most: int(r.Msg.GetMost())})
	return reply(&nimbusv1.SetLimitResponse{}, err)
}

func (s queueService) DeleteLimit(ctx context.Context, r *connect.Request[nimbusv1.DeleteLimitRequest]) (*connect.Response[nimbusv1.DeleteLimitResponse], error) {
	c := callerOf(ctx)
	err := s.api.Queue.DropLimit(ctx, c.Principal, c.org, wire.ToLimitKind(r.Msg.GetKind()), r.Msg.GetName())
	return reply(&nimbusv1.DeleteLimitResponse{}, err)
}

func (s queueService) ListWeights(ctx context.Context, r *connect.Request[nimbusv1.ListWeightsRequest]) (*connect.Response[nimbusv1.ListWeightsResponse], error) {
	weights, next, err := s.api.Queue.Weights(ctx, callerOf(ctx).org, int(r.Msg.GetPageSize()), r.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	out := &nimbusv1.ListWeightsResponse{NextPageToken: next}
	for _, w := range weights {
		out.Weights = append(out.Weights, wire.Weight(w))
	}
	return connect.NewResponse(out), nil
}

func (s queueService) SetRepoWeight(ctx context.Context, r *connect.Request[nimbusv1.SetRepoWeightRequest]) (*connect.Response[nimbusv1.SetRepoWeightResponse], error) {
	if r.Msg.GetRepo() == "" { // which would be the org itself
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "no repository is named").WithHint("write OWNER/NAME")
	}
	c := callerOf(ctx)
	err := s.api.Queue.SetWeight(ctx, c.Principal, c.org, nimbus.Weight{Repo: r.Msg.GetRepo(), Percent: int(r.Msg.GetPercent())})
	return reply(&nimbusv1.SetRepoWeightResponse{}, err)
}

func (s queueService) SetOrgWeight(ctx context.Context, r *connect.Request[nimbusv1.SetOrgWeightRequest]) (*connect.Response[nimbusv1.SetOrgWeightResponse], error) {
	org, err := s.api.Identity.Org(ctx, r.Msg.GetOrg())
	if err != nil {
		return nil, err
	}
	err = s.api.Queue.SetWeight(ctx, callerOf(ctx).Principal, org.ID, nimbus.Weight{Percent: int(r.Msg.GetPercent())})
	return reply(&nimbusv1.SetOrgWeightResponse{}, err)
}
