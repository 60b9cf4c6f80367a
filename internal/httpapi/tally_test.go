package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// denials are the numbers of refusals in a chain, "<actor's kind> <target> <code>"
// each. All must be from a network.
func (p *plane) denials(t *testing.T, org, network string) map[string]int64 {
	t.Helper()
	counts := map[string]int64{}
	_, entries := p.recorded(t, org)
	for _, e := range entries {
		if e.Action != "access.deny" {
			continue
		}
		kind, _, _ := strings.Cut(e.Actor, ":")
		counts[kind+" "+e.Target+" "+e.Detail["code"]] += e.Count
		if e.Outcome != nimbus.AuditDenied || e.Detail["network"] != network || strings.Contains(e.Target, "job_") {
			t.Errorf("recorded as %+v", e)
		}
	}
	return counts
}

// probes ask for one thing that is not the caller's org's.
var probes = map[string]string{
	"/nimbus.v1.JobService/GetJob":                          `{"jobId":"$job"}`,
	"/nimbus.v1.JobService/CancelJob":                       `{"jobId":"$job"}`,
	"/nimbus.v1.TokenService/RevokeToken":                   `{"tokenId":"$spare_token"}`,
	"/nimbus.v1.TokenService/CreateToken":                   `{"name":"x","accountId":"$account"}`,
	"/nimbus.v1.ServiceAccountService/DeleteServiceAccount": `{"accountId":"$account"}`,
	"/nimbus.v1.QueueService/SetRepoWeight":                 `{"repo":"$repo_name","percent":50}`,
	"GET /api/v1/jobs/{id}/log":                             "/api/v1/jobs/$job/log",
	"GET /api/v1/jobs/{id}/log/outline":                     "/api/v1/jobs/$job/log/outline",
	"GET /api/v1/jobs/{id}/log/stream":                      "/api/v1/jobs/$job/log/stream",
}

func (p *plane) probe(t *testing.T, about tenant, call, body string, headers []string) answer {
	t.Helper()
	if strings.HasPrefix(call, "GET ") {
		return p.ask(t, http.MethodGet, about.fill(body), "", headers...)
	}
	return p.ask(t, http.MethodPost, call, about.fill(body), headers...)
}

// TestProbesAreRecorded: who asks for another org or its things is told nothing;
// that org's ledger tells of it, but not from where. The own ledger has the same
// of what exists and of what does not, so that it tells nothing either.
func TestProbesAreRecorded(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	acme, globex := newTenant(t, p, "acme"), newTenant(t, p, "globex")
	who := member(t, p, acme, "a@members.example", nimbus.RoleAdmin)
	admin := bearer(token(t, p, who, nimbus.NewToken{Name: "own"}))
	ghost := ghost(globex)
	theirs := map[string]int64{}
	for call, body := range probes {
		before := p.denials(t, acme.org.ID, "127.0.0.0/24")
		for _, about := range []tenant{ghost, globex} {
			for range 2 {
				if got := p.probe(t, about, call, body, admin); got.status != http.StatusNotFound {
					t.Errorf("%s: %d %s", call, got.status, got.body)
				}
			}
			before["user "+call+" not_found"] += 2
			if diff := cmp.Diff(before, p.denials(t, acme.org.ID, "127.0.0.0/24")); diff != "" {
				t.Errorf("the own chain (-want +got):\n%s", diff)
			}
		}
		theirs["user "+call+" not_found"] = 2
	}
	const list = "/nimbus.v1.JobService/ListJobs"
	for _, org := range []string{globex.org.ID, globex.org.Name, ghost.org.ID, ghost.org.Name, "no org!", acme.org.Name + "x"} {
		p.ask(t, http.MethodPost, list, `{}`, append([]string{wire.OrgHeader, org}, admin...)...)
	}
	theirs["user "+list+" not_found"] = 2
	if diff := cmp.Diff(theirs, p.denials(t, globex.org.ID, "")); diff != "" {
		t.Errorf("the chain of who was asked for (-want +got):\n%s", diff)
	}
	if n := p.denials(t, acme.org.ID, "127.0.0.0/24")["user "+list+" not_found"]; n != 6 {
		t.Errorf("the own chain tells of %d asked for orgs, not 6", n)
	}
	_, entries := p.recorded(t, globex.org.ID)
	for _, e := range entries {
		if e.Action == "access.deny" && e.Actor != who.Actor() {
			t.Errorf("it was %s, and is recorded as %+v", who.Actor(), e)
		}
	}
	if got := p.denials(t, "", "127.0.0.0/24"); len(got) != 0 {
		t.Errorf("the platform's chain has %v", got)
	}
}

// TestWhatIsNoProbe: what somebody may do, and forgot to say in which org, and
// what an administrator of the platform mistyped.
func TestWhatIsNoProbe(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	acme, globex := newTenant(t, p, "acme"), newTenant(t, p, "globex")
	who := member(t, p, acme, "a@members.example", nimbus.RoleViewer)
	member(t, p, globex, "a@members.example", nimbus.RoleViewer)
	code, err := p.identity.CreateLogin(t.Context(), identity.Root(), who.Email)
	must(t, err)
	session, _, err := p.identity.RedeemLogin(t.Context(), code)
	must(t, err)
	both := []string{"Cookie", "nimbus_session=" + session, "Sec-Fetch-Site", "same-origin"}
	const call, body = "/nimbus.v1.JobService/GetJob", `{"jobId":"$job"}`
	p.probe(t, globex, call, body, append([]string{wire.OrgHeader, acme.org.ID}, both...))
	p.probe(t, ghost(globex), call, body, append([]string{wire.OrgHeader, acme.org.ID}, bearer(p.admin)...))
	p.ask(t, http.MethodPost, call, `{}`, append([]string{wire.OrgHeader, "ghost"}, bearer(p.admin)...)...)
	for _, org := range []string{"", globex.org.ID} {
		if got := p.denials(t, org, ""); len(got) != 0 {
			t.Errorf("the chain of %q has %v", org, got)
		}
	}
	if diff := cmp.Diff(map[string]int64{"user " + call + " not_found": 1}, p.denials(t, acme.org.ID, "127.0.0.0/24")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRefusalsAreInTheirOrg: of a token without the scope, with too low a role,
// and of one that works no more; each by whose it is.
func TestRefusalsAreInTheirOrg(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	acme, globex := newTenant(t, p, "acme"), newTenant(t, p, "globex")
	who := member(t, p, acme, "a@members.example", nimbus.RoleAdmin)
	narrow := bearer(token(t, p, who, nimbus.NewToken{Name: "narrow", Scopes: []nimbus.Scope{nimbus.ScopeJobsRead}}))
	secret, revoked, err := p.identity.CreateToken(t.Context(), who, nimbus.NewToken{Name: "gone"})
	must(t, err)
	must(t, p.identity.RevokeToken(t.Context(), who, revoked.ID, ""))
	root, _ := identity.Root().In(nimbus.DefaultOrgID)
	metrics := bearer(token(t, p, root, nimbus.NewToken{Name: "narrow", Platform: true, Scopes: []nimbus.Scope{nimbus.ScopeMetricsRead}}))
	for path, headers := range map[string][][]string{
		"/nimbus.v1.MemberService/ListMembers": {narrow, append([]string{wire.OrgHeader, acme.org.Name}, narrow...),
			append([]string{wire.OrgHeader, globex.org.ID}, narrow...), append([]string{wire.OrgHeader, acme.org.ID}, metrics...), metrics},
		"/nimbus.v1.JobService/ListJobs": {bearer(secret), bearer(secret)},
	} {
		for _, h := range headers {
			if got := p.ask(t, http.MethodPost, path, `{}`, h...); got.status != http.StatusForbidden && got.status != http.StatusUnauthorized {
				t.Errorf("%s: %d %s", path, got.status, got.body)
			}
		}
	}
	for org, want := range map[string]map[string]int64{
		acme.org.ID: {"user /nimbus.v1.MemberService/ListMembers forbidden": 3, "admin /nimbus.v1.MemberService/ListMembers forbidden": 1,
			"user /nimbus.v1.JobService/ListJobs unauthenticated": 2},
		nimbus.DefaultOrgID: {"admin /nimbus.v1.MemberService/ListMembers forbidden": 1},
	} {
		if diff := cmp.Diff(want, p.denials(t, org, "127.0.0.0/24")); diff != "" {
			t.Errorf("the chain of %s (-want +got):\n%s", org, diff)
		}
	}
	if diff := cmp.Diff(map[string]int64{"user /nimbus.v1.MemberService/ListMembers forbidden": 1}, p.denials(t, globex.org.ID, "")); diff != "" {
		t.Errorf("the chain of who was asked for (-want +got):\n%s", diff)
	}
}

// TestARemovedHostIsNamed, and its polling is one entry.
func TestARemovedHostIsNamed(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h := p.join(t)
	hosts, err := p.scheduler.Hosts(t.Context())
	must(t, err)
	must(t, p.scheduler.RemoveHost(t.Context(), identity.Root(), hosts[0].ID, false))
	for range 5 {
		p.ask(t, http.MethodPost, "/nimbus.v1.AgentService/Poll", `{}`, bearer(h.token)...)
	}
	_, entries := p.recorded(t, "")
	last := entries[len(entries)-1]
	if last.Actor != "host:"+hosts[0].ID || last.Action != "access.deny" || last.Count != 5 || last.Target != "/nimbus.v1.AgentService/Poll" {
		t.Errorf("recorded as %+v", last)
	}
}

// TestReadsOfAdministratorsAreRecorded in the org's chain, those that are alike
// as one; those of who has a role there are not.
func TestReadsOfAdministratorsAreRecorded(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	acme := newTenant(t, p, "acme")
	boss, err := p.identity.CreateUser(t.Context(), identity.Root(), "boss@members.example", "", true)
	must(t, err)
	member(t, p, acme, boss.Email, nimbus.RoleViewer)
	code, err := p.identity.CreateLogin(t.Context(), identity.Root(), boss.ID)
	must(t, err)
	session, _, err := p.identity.RedeemLogin(t.Context(), code)
	must(t, err)
	in := []string{wire.OrgHeader, acme.org.ID}
	root, both := append(bearer(p.admin), in...), append([]string{"Cookie", "nimbus_session=" + session, "Sec-Fetch-Site", "same-origin"}, in...)
	viewer := bearer(token(t, p, member(t, p, acme, "v@members.example", nimbus.RoleViewer), nimbus.NewToken{Name: "own"}))
	for range 3 { // a page that polls
		for _, headers := range [][]string{root, both, viewer} {
			p.ask(t, http.MethodPost, "/nimbus.v1.JobService/ListJobs", `{}`, headers...)
			p.ask(t, http.MethodPost, "/nimbus.v1.JobService/GetJob", acme.fill(`{"jobId":"$job"}`), headers...)
			p.ask(t, http.MethodGet, acme.fill("/api/v1/jobs/$job/log"), "", headers...)
			p.ask(t, http.MethodPost, "/nimbus.v1.TokenService/ListTokens", `{"platform":true}`, headers...)
			p.ask(t, http.MethodPost, "/nimbus.v1.AuditService/ListAuditEntries", `{}`, headers...) // takes an admin's role
		}
	}
	waiting := p.waiting(t, acme)
	for range 2 { // the second only tells of it
		p.ask(t, http.MethodPost, "/nimbus.v1.JobService/CancelJob", `{"jobId":"`+waiting.ID+`"}`, root...)
	}
	p.readStream(t, "/api/v1/jobs/stream", acme.things["attempt"], root)
	p.ask(t, http.MethodPost, "/nimbus.v1.JobService/GetJob", ghost(acme).fill(`{"jobId":"$job"}`), root...) // there was nothing to read
	got := map[string]int64{}
	rows := 0
	_, entries := p.recorded(t, acme.org.ID)
	for _, e := range entries {
		if e.Action == "admin.read" {
			rows++
			got[e.Actor+" "+e.Target] += e.Count
			if e.Outcome != nimbus.AuditAllowed || e.Detail["network"] != "127.0.0.0/24" || e.Detail["since"] == "" {
				t.Errorf("recorded as %+v", e)
			}
		}
	}
	want := map[string]int64{
		"admin:admin /nimbus.v1.JobService/ListJobs": 3, "admin:admin /nimbus.v1.JobService/GetJob": 3,
		"admin:admin /nimbus.v1.JobService/CancelJob": 2, "admin:admin GET /api/v1/jobs/{id}/log": 3, "admin:admin GET /api/v1/jobs/stream": 1,
		"admin:admin /nimbus.v1.AuditService/ListAuditEntries": 3, "user:" + boss.ID + " /nimbus.v1.AuditService/ListAuditEntries": 3,
	}
	if diff := cmp.Diff(want, got); diff != "" || rows != len(want) {
		t.Errorf("%d rows (-want +got):\n%s", rows, diff)
	}
}

// readStream reads a stream until it tells of something.
func (p *plane) readStream(t *testing.T, path, until string, headers []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	must(t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	got, err := http.DefaultClient.Do(r)
	must(t, err)
	defer got.Body.Close()
	var read strings.Builder
	for buf := make([]byte, 4096); !strings.Contains(read.String(), until); {
		n, err := got.Body.Read(buf)
		read.Write(buf[:n])
		must(t, err)
	}
}

// TestRefusalsCountTowardsTheRate: they cost as much as what is allowed.
func TestRefusalsCountTowardsTheRate(t *testing.T) {
	t.Parallel()
	p, heard := limited(t, httpapi.Limits{API: few}, nil)
	acme := newTenant(t, p, "acme")
	viewer := bearer(token(t, p, member(t, p, acme, "v@members.example", nimbus.RoleViewer), nimbus.NewToken{Name: "own"}))
	calls := map[string][]string{
		"/nimbus.v1.MemberService/SetMember": viewer,
		"/nimbus.v1.HostService/ListHosts":   viewer,
		"/nimbus.v1.JobService/ListJobs":     append([]string{wire.OrgHeader, "ghost"}, viewer...),
	}
	for _, want := range []map[int]bool{{http.StatusForbidden: true, http.StatusNotFound: true}, {http.StatusTooManyRequests: true}} {
		for call, headers := range calls {
			if got := p.ask(t, http.MethodPost, call, `{}`, headers...); !want[got.status] {
				t.Errorf("%s: %d %s, want %v", call, got.status, got.body, want)
			}
		}
	}
	if n := heard.refusals("api"); n != len(calls) {
		t.Errorf("%d were refused by the limit, not %d", n, len(calls))
	}
	if n := p.denials(t, acme.org.ID, "127.0.0.0/24")["user /nimbus.v1.MemberService/SetMember forbidden"]; n != 2 {
		t.Errorf("%d are in the ledger, not 2", n)
	}
}

// TestWhoAndWhere: the scheme in any case (RFC 9110, section 11.1), and one org.
func TestWhoAndWhere(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	acme := newTenant(t, p, "acme")
	secret := token(t, p, member(t, p, acme, "v@members.example", nimbus.RoleViewer), nimbus.NewToken{Name: "own"})
	for value, want := range map[string]int{
		"Bearer " + secret: http.StatusOK, "bearer " + secret: http.StatusOK, "BEARER  " + secret: http.StatusOK,
		"Bearer" + secret: http.StatusUnauthorized, secret: http.StatusUnauthorized, "Basic " + secret: http.StatusUnauthorized,
	} {
		if got := p.ask(t, http.MethodPost, "/nimbus.v1.JobService/ListJobs", `{}`, "Authorization", value); got.status != want {
			t.Errorf("%.7s…: %d %s", value, got.status, got.body)
		}
	}
	for name, orgs := range map[string][]string{
		"two": {acme.org.ID, "default"}, "the same twice": {acme.org.ID, acme.org.ID}, "a list": {acme.org.ID + ", default"}, "an empty one": {"", acme.org.ID},
	} {
		for _, path := range []string{"/nimbus.v1.JobService/ListJobs", "/api/v1/me"} {
			method := http.MethodPost
			if strings.HasPrefix(path, "/api") {
				method = http.MethodGet
			}
			r, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(`{}`))
			must(t, err)
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+p.admin)
			r.Header[wire.OrgHeader] = orgs
			got, err := http.DefaultClient.Do(r)
			must(t, err)
			got.Body.Close()
			if got.StatusCode != http.StatusBadRequest || !strings.Contains(got.Header.Get("Nimbus-Hint"), wire.OrgHeader) {
				t.Errorf("%s, %s: %d, hint %q", name, path, got.StatusCode, got.Header.Get("Nimbus-Hint"))
			}
		}
	}
}
