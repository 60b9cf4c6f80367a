package client

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Rates are how often the org may call, where that is not the usual.
func (c *Client) Rates(ctx context.Context) ([]nimbus.OrgRate, error) {
	answer, err := call(ctx, c.rates.ListRates, &nimbusv1.ListRatesRequest{})
	var rates []nimbus.OrgRate
	for _, r := range answer.GetRates() {
		rates = append(rates, nimbus.OrgRate{Kind: wire.ToRateKind(r.GetKind()), Rate: r.GetRate()})
	}
	return rates, err
}

// SetRate says how often an org, by its id or name, may call: PER_SECOND/BURST,
// "off" for no limit, or "" for the usual. Codes: invalid, not_found, forbidden.
func (c *Client) SetRate(ctx context.Context, org string, kind nimbus.RateKind, rate string) error {
	_, err := call(ctx, c.rates.SetRate, &nimbusv1.SetRateRequest{Org: org, Kind: wire.RateKind(kind), Rate: rate})
	return err
}
