package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// TestOrgsHaveTheirOwnRates: what an administrator sets for an org counts for
// its submissions, its other calls and its installations, and for nobody else's.
func TestOrgsHaveTheirOwnRates(t *testing.T) {
	t.Parallel()
	off := ratelimit.Unlimited()
	var gate *httpapi.Gate
	p := startPlane(t, func(cfg *httpapi.Config) {
		own, ok := cfg.Rates.(*ratelimit.Overrides)
		if !ok {
			t.Fatal("the plane has other rates")
		}
		gate = httpapi.NewGate(httpapi.Limits{Submit: few, API: few, Webhook: few, Stranger: off, Host: off}, own, nil, nil)
		cfg.Gate = gate
	})
	tokens, orgs := map[string][]string{}, map[string]string{}
	for _, name := range []string{"acme", "globex"} {
		org, err := p.identity.CreateOrg(t.Context(), identity.Root(), name, []string{name})
		must(t, err)
		admin, _ := identity.Root().In(org.ID)
		tokens[name] = bearer(token(t, p, member(t, p, tenant{org: org, admin: admin}, name+"@members.example", nimbus.RoleAdmin), nimbus.NewToken{Name: "own"}))
		orgs[name] = org.ID
	}
	const submit, list = "/nimbus.v1.JobService/SubmitJob", "/nimbus.v1.JobService/ListJobs"
	calls := func(org, path, body string) (n int) {
		t.Helper()
		for ; n < 20; n++ {
			got := p.ask(t, http.MethodPost, path, body, tokens[org]...)
			if got.status == http.StatusTooManyRequests {
				return n
			}
			if got.status != http.StatusOK {
				t.Fatalf("%s: %d %s", path, got.status, got.body)
			}
		}
		return n
	}
	deliveries := func(installation int64, owner string) (n int) {
		for ; n < 20 && gate.Delivery(t.Context(), installation, owner) == nil; n++ {
		}
		return n
	}
	set := func(kind nimbus.RateKind, rate string) {
		t.Helper()
		must(t, p.rates.Set(t.Context(), identity.Root(), nimbus.OrgRate{OrgID: orgs["acme"], Kind: kind, Rate: rate}))
	}
	if got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.RateService/SetRate", `{"org":"acme","kind":"RATE_KIND_SUBMISSIONS","rate":"0.001/5"}`); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	set(nimbus.RateWebhooks, "off")
	job := `{"spec":{"command":["true"]}}`
	got := []int{
		calls("acme", submit, job), calls("globex", submit, job), calls("acme", list, "{}"),
		deliveries(1, "Acme"), deliveries(2, "globex"),
	}
	set(nimbus.RateAPI, "0.001/9") // the bucket is as empty as it was, and larger
	got = append(got, calls("acme", list, "{}"))
	for i, want := range []int{5, few.Burst, few.Burst, 20, few.Burst, 9 - few.Burst} {
		if got[i] != want {
			t.Errorf("case %d: %d were taken, not %d", i, got[i], want)
		}
	}
	set(nimbus.RateAPI, "off")
	own := p.ask(t, http.MethodPost, "/nimbus.v1.RateService/ListRates", `{}`, tokens["acme"]...)
	if own.status != http.StatusOK || strings.ReplaceAll(own.body, " ", "") != `{"rates":[{"kind":"RATE_KIND_API","rate":"off"},{"kind":"RATE_KIND_SUBMISSIONS","rate":"0.001/5"},{"kind":"RATE_KIND_WEBHOOKS","rate":"off"}]}` {
		t.Errorf("it has %d %s", own.status, own.body)
	}
	if got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.RateService/SetRate", `{"org":"acme","kind":"RATE_KIND_API","rate":"lots"}`, wire.OrgHeader, orgs["globex"]); got.status != http.StatusBadRequest {
		t.Errorf("a rate that is none: %d %s", got.status, got.body)
	}
}
