package store_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestRatesOfOrgs runs the same cases on both engines, with two replicas on one
// database.
func TestRatesOfOrgs(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + t.TempDir() + "/nimbus.db" },
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testRates(t, dsn(t))
		})
	}
}

func testRates(t *testing.T, dsn string) {
	ctx, s := t.Context(), open(t, dsn)
	org, err := identity.New(s, nimbus.SystemClock{}).CreateOrg(ctx, identity.Root(), "acme", []string{"Acme-Inc"})
	if err != nil {
		t.Fatal(err)
	}
	one, other := ratelimit.NewOverrides(s, slog.New(slog.DiscardHandler)), ratelimit.NewOverrides(s, slog.New(slog.DiscardHandler))
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- other.Run(running, func() {}) }()
	defer func() { stop(); <-ended }()

	usual, own := ratelimit.Rate{PerSecond: 1, Burst: 1}, ratelimit.Rate{PerSecond: 0.5, Burst: 7}
	set := func(orgID string, kind nimbus.RateKind, rate string) {
		t.Helper()
		if err := one.Set(ctx, identity.Root(), nimbus.OrgRate{OrgID: orgID, Kind: kind, Rate: rate}); err != nil {
			t.Fatal(err)
		}
	}
	set(org.ID, nimbus.RateWebhooks, own.String())
	set(org.ID, nimbus.RateAPI, "off")
	for what, got := range map[string]ratelimit.Rate{
		"its webhooks": one.Of(org.ID, nimbus.RateWebhooks, usual), "its owner's webhooks": one.OfOwner("ACME-inc", nimbus.RateWebhooks, usual),
	} {
		if got != own {
			t.Errorf("%s: %v", what, got)
		}
	}
	if got := one.Of(org.ID, nimbus.RateAPI, usual); !got.Unlimited() {
		t.Errorf("without a limit: %v", got)
	}
	for what, got := range map[string]ratelimit.Rate{
		"another kind": one.Of(org.ID, nimbus.RateSubmissions, usual), "another org": one.Of(nimbus.DefaultOrgID, nimbus.RateWebhooks, usual),
		"a stranger's webhooks": one.OfOwner("globex", nimbus.RateWebhooks, usual), "no owner": one.OfOwner("", nimbus.RateWebhooks, usual),
	} {
		if got != usual {
			t.Errorf("%s: %v", what, got)
		}
	}
	awaitRate(t, other, org.ID, own)
	set(nimbus.DefaultOrgID, nimbus.RateWebhooks, own.String()) // whose are the owners that no org has
	if got := one.OfOwner("globex", nimbus.RateWebhooks, usual); got != own {
		t.Errorf("an owner of the default org: %v", got)
	}
	set(org.ID, nimbus.RateWebhooks, "")
	set(org.ID, nimbus.RateWebhooks, "")
	awaitRate(t, other, org.ID, usual)
	if got, err := one.List(ctx, org.ID); err != nil || len(got) != 1 || got[0] != (nimbus.OrgRate{OrgID: org.ID, Kind: nimbus.RateAPI, Rate: "off"}) {
		t.Errorf("it has %+v, %v", got, err)
	}
	for _, wrong := range []nimbus.OrgRate{{OrgID: org.ID, Kind: "none", Rate: "off"}, {OrgID: org.ID, Kind: nimbus.RateAPI, Rate: "much"}} {
		if err := one.Set(ctx, identity.Root(), wrong); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	if err := identity.New(s, nimbus.SystemClock{}).DeleteOrg(ctx, identity.Root(), org.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := one.List(ctx, org.ID); err != nil || len(got) != 0 {
		t.Errorf("an org that is gone has %+v, %v", got, err)
	}
}

// awaitRate waits until a replica knows an org's rate of webhooks.
func awaitRate(t *testing.T, replica *ratelimit.Overrides, orgID string, want ratelimit.Rate) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for replica.Of(orgID, nimbus.RateWebhooks, ratelimit.Rate{PerSecond: 1, Burst: 1}) != want {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("the other replica never hears of it")
		}
	}
}
