package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Rates says how often orgs may call, where that is not the usual.
type Rates interface {
	List(ctx context.Context, orgID string) ([]nimbus.OrgRate, error)
	Set(ctx context.Context, p nimbus.Principal, r nimbus.OrgRate) error
}

// rateService implements nimbusv1connect.RateServiceHandler.
type rateService struct{ api *api }

func (s rateService) ListRates(ctx context.Context, _ *connect.Request[nimbusv1.ListRatesRequest]) (*connect.Response[nimbusv1.ListRatesResponse], error) {
	rates, err := s.api.Rates.List(ctx, callerOf(ctx).org)
	return reply(&nimbusv1.ListRatesResponse{Rates: messages(rates, wire.Rate)}, err)
}

func (s rateService) SetRate(ctx context.Context, r *connect.Request[nimbusv1.SetRateRequest]) (*connect.Response[nimbusv1.SetRateResponse], error) {
	org, err := s.api.Identity.Org(ctx, r.Msg.GetOrg())
	if err != nil {
		return nil, err
	}
	err = s.api.Rates.Set(ctx, callerOf(ctx).Principal, nimbus.OrgRate{OrgID: org.ID, Kind: wire.ToRateKind(r.Msg.GetKind()), Rate: r.Msg.GetRate()})
	return reply(&nimbusv1.SetRateResponse{}, err)
}
