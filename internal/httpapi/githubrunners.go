package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// GitHubRunners says with whom runners are registered, and which scale sets are
// listened to.
type GitHubRunners interface {
	RunnerPlaces(ctx context.Context) ([]nimbus.RunnerPlace, error)
	SetRunnerPlace(ctx context.Context, p nimbus.Principal, installation int64, organization bool, group string) (nimbus.RunnerPlace, error)
	ScaleSets(ctx context.Context) ([]nimbus.ScaleSet, error)
	AddScaleSet(ctx context.Context, p nimbus.Principal, set nimbus.ScaleSet) (nimbus.ScaleSet, error)
	RemoveScaleSet(ctx context.Context, p nimbus.Principal, id string) error
}

// gitHubRunnerService implements nimbusv1connect.GitHubRunnerServiceHandler.
type gitHubRunnerService struct{ api *api }

func (s gitHubRunnerService) ListRunnerPlaces(ctx context.Context, _ *connect.Request[nimbusv1.ListRunnerPlacesRequest]) (*connect.Response[nimbusv1.ListRunnerPlacesResponse], error) {
	places, err := s.api.GitHub.RunnerPlaces(ctx)
	out := &nimbusv1.ListRunnerPlacesResponse{}
	for _, p := range places {
		out.Places = append(out.Places, wire.RunnerPlace(p))
	}
	return connect.NewResponse(out), err
}

func (s gitHubRunnerService) SetRunnerPlace(ctx context.Context, r *connect.Request[nimbusv1.SetRunnerPlaceRequest]) (*connect.Response[nimbusv1.SetRunnerPlaceResponse], error) {
	p, err := s.api.GitHub.SetRunnerPlace(ctx, callerOf(ctx).Principal, r.Msg.GetInstallationId(), r.Msg.GetOrganization(), r.Msg.GetGroup())
	return connect.NewResponse(&nimbusv1.SetRunnerPlaceResponse{Place: wire.RunnerPlace(p)}), err
}

func (s gitHubRunnerService) ListScaleSets(ctx context.Context, _ *connect.Request[nimbusv1.ListScaleSetsRequest]) (*connect.Response[nimbusv1.ListScaleSetsResponse], error) {
	sets, err := s.api.GitHub.ScaleSets(ctx)
	out := &nimbusv1.ListScaleSetsResponse{}
	for _, set := range sets {
		out.ScaleSets = append(out.ScaleSets, wire.ScaleSet(set))
	}
	return connect.NewResponse(out), err
}

func (s gitHubRunnerService) AddScaleSet(ctx context.Context, r *connect.Request[nimbusv1.AddScaleSetRequest]) (*connect.Response[nimbusv1.AddScaleSetResponse], error) {
	set, err := s.api.GitHub.AddScaleSet(ctx, callerOf(ctx).Principal, nimbus.ScaleSet{
		InstallationID: r.Msg.GetInstallationId(), Name: r.Msg.GetName(), Labels: r.Msg.GetLabels(), Group: r.Msg.GetGroup(), MaxRunners: int(r.Msg.GetMaxRunners()),
	})
	return connect.NewResponse(&nimbusv1.AddScaleSetResponse{ScaleSet: wire.ScaleSet(set)}), err
}

func (s gitHubRunnerService) RemoveScaleSet(ctx context.Context, r *connect.Request[nimbusv1.RemoveScaleSetRequest]) (*connect.Response[nimbusv1.RemoveScaleSetResponse], error) {
	return connect.NewResponse(&nimbusv1.RemoveScaleSetResponse{}), s.api.GitHub.RemoveScaleSet(ctx, callerOf(ctx).Principal, r.Msg.GetId())
}
