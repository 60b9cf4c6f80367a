package store

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// OrgRates implements ratelimit.Store.
func (s *Store) OrgRates(ctx context.Context) (rates []nimbus.OrgRate, orgOf map[string]string, err error) {
	q := gen.New(s.reader)
	rows, err := q.OrgRates(ctx)
	if err != nil || len(rows) == 0 { // the usual case: nobody has to know whose what is
		return nil, nil, interpret(err)
	}
	owners, err := q.OwnersOfOrgs(ctx)
	orgOf = make(map[string]string, len(owners))
	for _, o := range owners {
		orgOf[o.Name] = o.OrgID
	}
	return orgRates(rows), orgOf, interpret(err)
}

// RatesOfOrg implements ratelimit.Store.
func (s *Store) RatesOfOrg(ctx context.Context, orgID string) ([]nimbus.OrgRate, error) {
	rows, err := gen.New(s.reader).RatesOfOrg(ctx, orgID)
	return orgRates(rows), interpret(err)
}

func orgRates(rows []gen.OrgRate) []nimbus.OrgRate {
	rates := make([]nimbus.OrgRate, len(rows))
	for i, r := range rows {
		rates[i] = nimbus.OrgRate{OrgID: r.OrgID, Kind: nimbus.RateKind(r.Kind), Rate: r.Rate}
	}
	return rates
}

// SetOrgRate implements ratelimit.Store.
func (s *Store) SetOrgRate(ctx context.Context, r nimbus.OrgRate, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if r.Rate == "" {
			n, err := t.DropOrgRate(ctx, gen.DropOrgRateParams{OrgID: r.OrgID, Kind: string(r.Kind)})
			if err != nil || n == 0 {
				return err
			}
			return t.audit(ctx, e)
		}
		if err := t.SetOrgRate(ctx, gen.SetOrgRateParams{OrgID: r.OrgID, Kind: string(r.Kind), Rate: r.Rate}); err != nil {
			return err
		}
		return t.audit(ctx, e)
	})
}
