package httpapi_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// tenant is an org with one of everything in it.
type tenant struct {
	org    nimbus.Org
	admin  nimbus.Principal
	things map[string]string // by the word that stands for it in a request
	host   hostPlayer        // that runs its job
}

// fill puts the tenant's things into a request.
func (tn tenant) fill(text string) string {
	for name, id := range tn.things { // no name is the beginning of another's, but for these
		if name != "org" && name != "job" && name != "repo" && name != "account" {
			text = strings.ReplaceAll(text, "$"+name, id)
		}
	}
	for _, name := range []string{"org", "job", "repo", "account"} {
		text = strings.ReplaceAll(text, "$"+name, tn.things[name])
	}
	return text
}

// newTenant makes an org and fills it. Whatever is of it and can be read has
// its name in it, or is one of its things.
func newTenant(t *testing.T, p *plane, name string) tenant {
	t.Helper()
	ctx := t.Context()
	org, err := p.identity.CreateOrg(ctx, identity.Root(), name, []string{name})
	must(t, err)
	admin, ok := identity.Root().In(org.ID)
	if !ok {
		t.Fatal("the administrator may not act in a new org")
	}
	tn := tenant{org: org, admin: admin, host: p.join(t), things: map[string]string{
		"org": org.ID, "new_org": name + "-more", "owner": name + "-owner",
		"new_user": "user@" + name + ".example", "new_member": "member@" + name + ".example", "new_account": name + " made",
	}}
	sum, err := p.blobs.PutAddressed(ctx, "workspaces/"+org.ID, strings.NewReader("files of "+name), 1<<20)
	must(t, err)
	tn.things["workspace"] = sum
	job := tn.submit(t, p, "running job of "+name, sum)
	lease := tn.host.accept(t)
	tn.host.write(t, lease, 1, 3)
	tn.things["job"], tn.things["attempt"], tn.things["fence"] = job.ID, lease.GetAttemptId(), fmt.Sprint(lease.GetFence())
	tn.things["shell"], tn.things["spare_shell"] = p.openShell(t, tn, lease), p.openShell(t, tn, lease)
	tn.things["lease"] = fmt.Sprintf(`{"attemptId":%q,"fence":"%d"}`, lease.GetAttemptId(), lease.GetFence())

	member, err := p.identity.SetMember(ctx, admin, "spare@"+name+".example", name+" spare", nimbus.RoleAdmin)
	must(t, err)
	user, err := p.identity.CreateUser(ctx, identity.Root(), "nobody@"+name+".example", "", false)
	must(t, err)
	tn.things["spare_member"], tn.things["spare_user"] = member.UserID, user.ID
	for thing, called := range map[string]string{"account": name + " robot", "spare_account": name + " spare"} {
		a, err := p.identity.CreateAccount(ctx, admin, called, nimbus.RoleDeveloper)
		must(t, err)
		tn.things[thing] = a.ID
	}
	_, token, err := p.identity.CreateToken(ctx, admin, nimbus.NewToken{Name: name + " token", AccountID: tn.things["account"]})
	must(t, err)
	tn.things["spare_token"] = token.ID
	h, err := p.scheduler.RegisterHost(ctx, "spare", "test", nimbus.Inventory{Arch: "arm64", CPUs: 1, MemoryMiB: 1})
	must(t, err)
	tn.things["spare_host"] = h.ID

	repo := name + "/project"
	_, err = p.scheduler.ProcessDelivery(ctx, nimbus.Delivery{ID: name, Event: "workflow_job", Action: "queued", ReceivedAt: time.Now()}, &nimbus.ForgeEvent{
		Status: nimbus.ForgeQueued, Demand: true, Name: "workflow of " + name, Labels: []string{nimbus.OwnLabel, "gpu"},
		Job: nimbus.GitHubJob{JobID: int64(len(name)), Owner: name, Repo: "project"},
	})
	must(t, err)
	repos, _, err := p.identity.Repos(ctx, admin, nimbus.PageRequest{})
	must(t, err)
	if len(repos) != 1 || repos[0].Name != repo {
		t.Fatalf("the delivery's repository is not in its owner's org: %+v", repos)
	}
	tn.things["repo"], tn.things["repo_name"] = repos[0].ID, repo
	return tn
}

func (tn tenant) submit(t *testing.T, p *plane, name, workspace string) nimbus.Job {
	t.Helper()
	j, err := p.scheduler.Submit(t.Context(), tn.admin, scheduler.Submission{
		Name: name, Class: nimbus.Class{Executor: nimbus.ExecutorLocal}, Spec: nimbus.Spec{Command: []string{"true"}, WorkspaceID: workspace},
	})
	must(t, err)
	return j
}

// ghost has things that are like those of a tenant, and don't exist.
func ghost(like tenant) tenant {
	g := tenant{org: nimbus.Org{ID: nimbus.NewID(nimbus.PrefixOrg, time.Now()), Name: "ghost"}, things: map[string]string{}}
	for name, id := range like.things {
		g.things[name] = id
		for _, prefix := range []string{nimbus.PrefixOrg, nimbus.PrefixJob, nimbus.PrefixAttempt, nimbus.PrefixUser, nimbus.PrefixAccount, nimbus.PrefixToken, nimbus.PrefixHost, nimbus.PrefixRepo, nimbus.PrefixShell} {
			if nimbus.CheckID(prefix, id) == nil {
				g.things[name] = nimbus.NewID(prefix, time.Now())
			}
		}
	}
	g.things["org"], g.things["repo_name"] = g.org.ID, "ghost/project"
	g.things["lease"] = fmt.Sprintf(`{"attemptId":%q,"fence":"999999"}`, g.things["attempt"])
	g.things["fence"], g.things["workspace"] = "999999", strings.Repeat("0", 64)
	return g
}

// asker is somebody who calls.
type asker struct {
	role    string // that the expectations speak of; "" for who has none
	known   bool   // tells whether a refusal is forbidden, or else unauthenticated
	scopes  []string
	headers []string
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

// askers are one of each sort: those with a role have it in home alone.
func askers(t *testing.T, p *plane, home tenant) map[string]asker {
	t.Helper()
	ctx := t.Context()
	out := map[string]asker{
		"none":     {},
		"host":     {role: "host", known: true, headers: bearer(home.host.token)},
		"job":      {known: true, headers: bearer(p.jobToken(t, nimbus.PhaseStarted))},
		"inert":    {headers: bearer(p.jobToken(t))},
		"ended":    {headers: bearer(p.jobToken(t, nimbus.PhaseStarted, finished))},
		"platform": {role: "platform", known: true, headers: bearer(p.admin)},
	}
	root, _ := identity.Root().In(nimbus.DefaultOrgID)
	out["metrics"] = asker{role: "platform", known: true, scopes: []string{"metrics:read"},
		headers: bearer(token(t, p, root, nimbus.NewToken{Name: "narrow", Platform: true, Scopes: []nimbus.Scope{nimbus.ScopeMetricsRead}}))}
	join, _, err := p.identity.IssueJoin(ctx, identity.Root(), 0)
	must(t, err)
	out["join"] = asker{headers: bearer(join)}
	for _, role := range nimbus.Roles() {
		who := member(t, p, home, string(role)+"@members.example", role)
		out[string(role)] = asker{role: string(role), known: true, headers: bearer(token(t, p, who, nimbus.NewToken{Name: "own"}))}
		if role == nimbus.RoleAdmin {
			out["scoped"] = asker{role: "admin", known: true, scopes: []string{"jobs:read"},
				headers: bearer(token(t, p, who, nimbus.NewToken{Name: "narrow", Scopes: []nimbus.Scope{nimbus.ScopeJobsRead}}))}
			out["narrowed"] = asker{role: "viewer", known: true, headers: bearer(token(t, p, who, nimbus.NewToken{Name: "less", Role: nimbus.RoleViewer}))}
			out["expired"] = asker{headers: bearer(token(t, p, who, nimbus.NewToken{Name: "old", ValidFor: time.Microsecond}))}
			secret, tok, err := p.identity.CreateToken(ctx, who, nimbus.NewToken{Name: "gone"})
			must(t, err)
			must(t, p.identity.RevokeToken(ctx, who, tok.ID, ""))
			out["revoked"] = asker{headers: bearer(secret)}
			code, err := p.identity.CreateLogin(ctx, identity.Root(), who.Email)
			must(t, err)
			session, _, err := p.identity.RedeemLogin(ctx, code)
			must(t, err)
			out["session"] = asker{role: "admin", known: true, headers: []string{"Cookie", "nimbus_session=" + session, "Sec-Fetch-Site", "same-origin"}}
		}
	}
	robot, err := p.identity.CreateAccount(ctx, home.admin, "robot that calls", nimbus.RoleDeveloper)
	must(t, err)
	out["account"] = asker{role: "developer", known: true,
		headers: bearer(token(t, p, home.admin, nimbus.NewToken{Name: "robot", AccountID: robot.ID}))}
	former := member(t, p, home, "former@members.example", nimbus.RoleAdmin)
	out["former"] = asker{headers: bearer(token(t, p, former, nimbus.NewToken{Name: "own"}))}
	must(t, p.identity.RemoveMember(ctx, home.admin, former.Subject))
	return out
}

// member is a new member of an org, as bound to it.
func member(t *testing.T, p *plane, tn tenant, email string, role nimbus.Role) nimbus.Principal {
	t.Helper()
	m, err := p.identity.SetMember(t.Context(), tn.admin, email, "", role)
	must(t, err)
	who, ok := nimbus.Principal{Kind: nimbus.PrincipalUser, Subject: m.UserID, Email: email, Orgs: []nimbus.Membership{m}}.In(tn.org.ID)
	if !ok {
		t.Fatal("a member may not act in its org")
	}
	return who
}

func token(t *testing.T, p *plane, who nimbus.Principal, n nimbus.NewToken) string {
	t.Helper()
	secret, _, err := p.identity.CreateToken(t.Context(), who, n)
	must(t, err)
	return secret
}

// state is all that can be read of an org, by who may read all.
func (tn tenant) state(t *testing.T, p *plane) string {
	t.Helper()
	var all []string
	headers := append(bearer(p.admin), wire.OrgHeader, tn.org.ID)
	for _, call := range []string{
		"JobService/ListJobs {}", "JobService/ListJobEvents {\"jobId\":\"$job\"}", "JobService/ListJobEvents {\"jobId\":\"$waiting_job\"}",
		"ShellService/ListShells {\"jobId\":\"$job\"}", "OrgService/ListRepos {}", "MemberService/ListMembers {}", "ServiceAccountService/ListServiceAccounts {}", "TokenService/ListTokens {}",
	} {
		procedure, body, _ := strings.Cut(call, " ")
		got := p.ask(t, http.MethodPost, "/nimbus.v1."+procedure, tn.fill(body), headers...)
		if got.status != http.StatusOK {
			t.Fatalf("%s: %d %s", call, got.status, got.body)
		}
		all = append(all, got.body)
	}
	log := p.ask(t, http.MethodGet, tn.fill("/api/v1/jobs/$job/log"), "", headers...)
	return strings.Join(append(all, log.body), "\n")
}

// openShell opens a shell in the job of a lease, as who administers the
// platform: its host has come for it, something passed, and that is recorded.
func (p *plane) openShell(t *testing.T, tn tenant, lease *nimbusv1.Lease) string {
	t.Helper()
	ctx := t.Context()
	opened, err := p.shells.Open(ctx, tn.admin, tn.org.ID, tn.things["job"], "192.0.2.1", nimbus.ShellSpec{Command: []string{"true"}}, 0)
	must(t, err)
	_, err = tn.host.AttachShell(ctx, connect.NewRequest(&nimbusv1.AttachShellRequest{Lease: lease, ShellId: opened.ID}))
	must(t, err)
	typed, err := wire.ShellBatch([]*nimbusv1.ShellFrame{{Frame: &nimbusv1.ShellFrame_Input{Input: []byte("x")}}}, true)
	must(t, err)
	must(t, p.shells.Send(ctx, tn.admin, tn.org.ID, opened.ID, 1, typed))
	_, err = tn.host.SendShellOutput(ctx, connect.NewRequest(&nimbusv1.SendShellOutputRequest{Lease: lease, ShellId: opened.ID, Seq: 1,
		Frames:   []*nimbusv1.ShellFrame{{Frame: &nimbusv1.ShellFrame_Output{Output: &nimbusv1.ShellOutput{Stream: "stdout", Data: []byte("shown")}}}},
		Recorded: []*nimbusv1.Line{wire.Line(nimbus.Line{Seq: 1, At: time.Now(), Stream: nimbus.StreamStdout, Text: "recorded of " + tn.org.Name})},
	}))
	must(t, err)
	return opened.ID
}

// renew keeps a tenant's job from being lost meanwhile, and its shells.
func (tn tenant) renew(t *testing.T, p *plane) {
	t.Helper()
	fence, err := strconv.ParseInt(tn.things["fence"], 10, 64)
	must(t, err)
	_, err = tn.host.Heartbeat(t.Context(), connect.NewRequest(&nimbusv1.HeartbeatRequest{
		Leases: []*nimbusv1.Lease{{AttemptId: tn.things["attempt"], Fence: fence}}}))
	must(t, err)
	for _, id := range []string{tn.things["shell"], tn.things["spare_shell"]} {
		_, err := tn.host.ReceiveShellInput(t.Context(), connect.NewRequest(&nimbusv1.ReceiveShellInputRequest{
			Lease: &nimbusv1.Lease{AttemptId: tn.things["attempt"], Fence: fence}, ShellId: id}))
		must(t, err)
		_, err = p.shells.Receive(t.Context(), tn.admin, tn.org.ID, id, 0, 0)
		must(t, err)
	}
}
