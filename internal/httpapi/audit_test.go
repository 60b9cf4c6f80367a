package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// recorded are the entries of a chain, "<actor's kind> <action> <outcome>" each
// with what it is about, once all that happened is chained.
func (p *plane) recorded(t *testing.T, org string) (lines []string, entries []nimbus.AuditEntry) {
	t.Helper()
	p.tally.Flush(t.Context())
	must(t, p.ledger.Chain(t.Context()))
	entries, _, err := p.ledger.Entries(t.Context(), org, nimbus.AuditFilter{OldestFirst: true}, nimbus.PageRequest{Size: nimbus.MaxAuditPage})
	must(t, err)
	for _, e := range entries {
		kind, _, _ := strings.Cut(e.Actor, ":")
		lines = append(lines, kind+" "+e.Action+" "+string(e.Outcome))
	}
	return lines, entries
}

// TestPowersAreRecorded: what administrators and hosts do is in the ledger, in
// the chain where it belongs, by who did it.
func TestPowersAreRecorded(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	job := p.submit(t)
	host := p.join(t)
	hosts, err := p.scheduler.Hosts(t.Context())
	must(t, err)
	for _, call := range []struct{ path, body string }{
		{"/nimbus.v1.JobService/CancelJob", `{"jobId":"` + job.ID + `"}`},
		{"/nimbus.v1.JobService/CancelJob", `{"jobId":"` + job.ID + `"}`}, // over: no effect, no entry
		{"/nimbus.v1.HostService/CordonHost", `{"hostId":"` + hosts[0].ID + `","cordoned":true}`},
		{"/nimbus.v1.HostService/CordonHost", `{"hostId":"` + hosts[0].ID + `"}`},
		{"/nimbus.v1.HostService/RemoveHost", `{"hostId":"` + hosts[0].ID + `"}`},
		{"/nimbus.v1.HostService/CreateJoinToken", `{}`},
	} {
		if got := p.asAdmin(t, http.MethodPost, call.path, call.body); got.status != http.StatusOK {
			t.Fatalf("%s: %d %s", call.path, got.status, got.body)
		}
	}
	session, _, err := p.identity.RedeemLogin(t.Context(), p.loginCode(t))
	must(t, err)
	got := p.ask(t, http.MethodPost, "/api/v1/logout", "", "Cookie", "nimbus_session="+session, "Sec-Fetch-Site", "same-origin")
	if got.status != http.StatusNoContent {
		t.Fatalf("logout: %d %s", got.status, got.body)
	}
	lines, _ := p.recorded(t, "")
	want := []string{
		"system token.create allowed", "admin token.create allowed", "host host.join allowed", "host token.create allowed",
		"admin host.cordon allowed", "admin host.uncordon allowed", "admin host.remove allowed", "admin token.create allowed",
		"admin login.create allowed", "login session.create allowed", "admin session.end allowed",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("the platform's chain (-want +got):\n%s", diff)
	}
	lines, entries := p.recorded(t, nimbus.DefaultOrgID)
	if diff := cmp.Diff([]string{"admin job.cancel allowed", "admin admin.read allowed"}, lines); diff != "" || entries[0].Target != job.ID {
		t.Errorf("the org's chain (-want +got), about %s:\n%s", entries[0].Target, diff)
	}
	for _, secret := range []string{p.admin, session, host.token} {
		for _, org := range []string{"", nimbus.DefaultOrgID} {
			_, entries := p.recorded(t, org)
			if strings.Contains(fmt.Sprintf("%+v", entries), secret) {
				t.Error("a token is in the ledger")
			}
		}
	}
}

func (p *plane) loginCode(t *testing.T) string {
	t.Helper()
	code, err := p.identity.CreateLogin(t.Context(), identity.Root(), "")
	must(t, err)
	return code
}

// TestRefusalsAreRecorded: whoever refuses, in the chain of the org that the
// caller was known to act in, and those that are alike as one.
func TestRefusalsAreRecorded(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	acme := newTenant(t, p, "acme")
	viewer := bearer(token(t, p, member(t, p, acme, "v@members.example", nimbus.RoleViewer), nimbus.NewToken{Name: "own"}))
	const wrong = "nbs_user_wrong"
	for range 3 {
		p.ask(t, http.MethodPost, "/nimbus.v1.JobService/ListJobs", `{}`, bearer(wrong)...)
	}
	p.ask(t, http.MethodGet, "/api/v1/jobs/job_1/log", "")
	p.ask(t, http.MethodGet, "/api/v1/jobs/job_2/log", "") // the pattern counts, not the path
	p.ask(t, http.MethodGet, "/login?code="+wrong, "")
	p.ask(t, http.MethodPost, "/nimbus.v1.AgentService/Join", `{"joinToken":"`+wrong+`"}`)
	p.ask(t, http.MethodPost, "/nimbus.v1.JobService/SubmitJob", `{"spec":{"command":["true"]}}`, viewer...)
	p.ask(t, http.MethodPost, "/nimbus.v1.HostService/ListHosts", `{}`, viewer...)
	p.ask(t, http.MethodPost, "/nimbus.v1.JobService/GetJob", `{"jobId":"job_1"}`, viewer...) // wrong, but no refusal

	want := map[string]int64{
		"anonymous /nimbus.v1.JobService/ListJobs unauthenticated": 3,
		"anonymous GET /api/v1/jobs/{id}/log unauthenticated":      2,
		"anonymous GET /login unauthenticated":                     1,
		"anonymous /nimbus.v1.AgentService/Join unauthenticated":   1,
		"user /nimbus.v1.HostService/ListHosts forbidden":          1,
	}
	if diff := cmp.Diff(want, p.denials(t, "", "127.0.0.0/24")); diff != "" {
		t.Errorf("the platform's chain (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int64{"user /nimbus.v1.JobService/SubmitJob forbidden": 1}, p.denials(t, acme.org.ID, "127.0.0.0/24")); diff != "" {
		t.Errorf("the org's chain (-want +got):\n%s", diff)
	}
}

// TestAnOrgSeesItsOwnChain and nothing of another's or the platform's.
func TestAnOrgSeesItsOwnChain(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	ours, theirs := newTenant(t, p, "acme"), newTenant(t, p, "globex")
	must(t, p.ledger.Chain(t.Context()))
	admin := bearer(token(t, p, member(t, p, ours, "a@members.example", nimbus.RoleAdmin), nimbus.NewToken{Name: "own"}))
	for _, call := range []string{"ListAuditEntries", "ListAuditCheckpoints"} {
		own := p.ask(t, http.MethodPost, "/nimbus.v1.AuditService/"+call, `{}`, admin...)
		if own.status != http.StatusOK || !strings.Contains(own.body, ours.org.ID) || strings.Contains(own.body, theirs.org.ID) || strings.Contains(own.body, `"globex`) {
			t.Errorf("%s: %d %s", call, own.status, own.body)
		}
		for body, headers := range map[string][]string{`{"platform":true}`: nil, `{}`: {wire.OrgHeader, theirs.org.ID}} {
			if got := p.ask(t, http.MethodPost, "/nimbus.v1.AuditService/"+call, body, append(headers, admin...)...); got.status/100 != 4 {
				t.Errorf("%s %s: %d %s", call, body, got.status, got.body)
			}
		}
		all := p.asAdmin(t, http.MethodPost, "/nimbus.v1.AuditService/"+call, `{"platform":true}`)
		if all.status != http.StatusOK || strings.Contains(all.body, `"orgId"`) {
			t.Errorf("%s of the platform: %d %s", call, all.status, all.body)
		}
	}
}
