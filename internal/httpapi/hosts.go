package httpapi

import (
	"context"
	"slices"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// hostService implements nimbusv1connect.HostServiceHandler.
type hostService struct{ api *api }

func (s hostService) ListHosts(ctx context.Context, r *connect.Request[nimbusv1.ListHostsRequest]) (*connect.Response[nimbusv1.ListHostsResponse], error) {
	hosts, next, err := s.api.Hosts.HostPage(ctx, int(r.Msg.GetPageSize()), r.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	err = s.runners(ctx, hosts)
	return reply(&nimbusv1.ListHostsResponse{Hosts: messages(hosts, wire.Host), NextPageToken: next}, err)
}

func (s hostService) ListHostJobs(ctx context.Context, _ *connect.Request[nimbusv1.ListHostJobsRequest]) (*connect.Response[nimbusv1.ListHostJobsResponse], error) {
	jobs, more, err := s.api.Hosts.HostJobs(ctx)
	return reply(&nimbusv1.ListHostJobsResponse{Jobs: messages(jobs, wire.HostJob), More: more}, err)
}

// runners says how the runners of hosts stand against GitHub's releases.
func (s hostService) runners(ctx context.Context, hosts []nimbus.Host) error {
	if !slices.ContainsFunc(hosts, func(h nimbus.Host) bool { return h.Inventory.RunnerVersion != "" }) {
		return nil
	}
	releases, err := s.api.GitHub.RunnerReleases(ctx)
	if err != nil {
		return err
	}
	for i, h := range hosts {
		if h.Inventory.RunnerVersion != "" {
			hosts[i].Runner = nimbus.WorstRunnerStanding(h.Inventory.RunnerVersion, releases)
		}
	}
	return nil
}

func (s hostService) CreateJoinToken(ctx context.Context, r *connect.Request[nimbusv1.CreateJoinTokenRequest]) (*connect.Response[nimbusv1.CreateJoinTokenResponse], error) {
	token, expires, err := s.api.Identity.IssueJoin(ctx, callerOf(ctx).Principal, r.Msg.GetValidFor().AsDuration())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.CreateJoinTokenResponse{Token: token, ExpiresAt: wire.Time(expires)}), nil
}

func (s hostService) CordonHost(ctx context.Context, r *connect.Request[nimbusv1.CordonHostRequest]) (*connect.Response[nimbusv1.CordonHostResponse], error) {
	err := s.api.Hosts.CordonHost(ctx, callerOf(ctx).Principal, r.Msg.GetHostId(), r.Msg.GetCordoned())
	return connect.NewResponse(&nimbusv1.CordonHostResponse{}), err
}

func (s hostService) RemoveHost(ctx context.Context, r *connect.Request[nimbusv1.RemoveHostRequest]) (*connect.Response[nimbusv1.RemoveHostResponse], error) {
	err := s.api.Hosts.RemoveHost(ctx, callerOf(ctx).Principal, r.Msg.GetHostId(), r.Msg.GetForce())
	return connect.NewResponse(&nimbusv1.RemoveHostResponse{}), err
}
