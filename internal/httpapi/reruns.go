package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Reruns is what is run again without anybody asking for it.
type Reruns interface {
	RerunPolicy(ctx context.Context, orgID string) (nimbus.RerunUse, error)
	SetRerunPolicy(ctx context.Context, p nimbus.Principal, orgID string, policy nimbus.RerunPolicy) error
}

// rerunService implements nimbusv1connect.RerunServiceHandler.
type rerunService struct{ api *api }

func (s rerunService) GetRerunPolicy(ctx context.Context, _ *connect.Request[nimbusv1.GetRerunPolicyRequest]) (*connect.Response[nimbusv1.GetRerunPolicyResponse], error) {
	use, err := s.api.Reruns.RerunPolicy(ctx, callerOf(ctx).org)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.GetRerunPolicyResponse{
		Policy:   &nimbusv1.RerunPolicy{PerRun: int32(use.PerRun), PerHour: int32(use.PerHour)},
		LastHour: int32(use.LastHour), Waiting: int32(use.Waiting),
	}), nil
}

func (s rerunService) SetRerunPolicy(ctx context.Context, r *connect.Request[nimbusv1.SetRerunPolicyRequest]) (*connect.Response[nimbusv1.SetRerunPolicyResponse], error) {
	c := callerOf(ctx)
	p := r.Msg.GetPolicy()
	err := s.api.Reruns.SetRerunPolicy(ctx, c.Principal, c.org, nimbus.RerunPolicy{PerRun: int(p.GetPerRun()), PerHour: int(p.GetPerHour())})
	return reply(&nimbusv1.SetRerunPolicyResponse{}, err)
}
