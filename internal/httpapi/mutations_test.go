package httpapi_test

import (
	"database/sql"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// mutation is what the ledger must hear of a call that changes something.
type mutation struct {
	action string // "" where silent says why the ledger hears nothing
	silent string
	body   string
	as     string // the word for who calls: "" is an administrator of the platform
	spends bool   // what it is called with, even where it fails
}

// Why some calls are not in the ledger.
const (
	itsHistory    = "no power over others: the job's own history names who submitted it"
	ofAHost       = "what a host does with its jobs is in their histories"
	ofTheRunners  = "internal/cli's githubrunners_test calls the real one"
	ofTheServer   = "internal/server's TestChangesOfAppsAreRecorded calls the real one"
	ofTheRegistry = "test/registry's TestPeople calls the real one"
	onlySooner    = "what it removes goes a minute later without it"
	onlyReads     = "it changes nothing"
	ofAShell      = "what passes in a shell is in its recording"
	ownProof      = "a host renews its own token: there are two an hour of each"
)

// mutations has each call that is no Get and no List. A new one fails the test
// until it has a line here.
var mutations = map[string]mutation{
	"JobService/SubmitJob":      {silent: itsHistory},
	"JobService/SummarizeJobs":  {silent: onlyReads},
	"JobService/CancelJob":      {action: "job.cancel", body: `{"jobId":"$waiting_job"}`},
	"JobService/RerunJob":       {action: "job.rerun", body: `{"jobId":"$ended_job"}`},
	"JobService/ReleaseJob":     {action: "job.release", body: `{"jobId":"$held_job"}`},
	"JobService/SetJobPriority": {action: "job.priority", body: `{"jobId":"$spare_job","priority":1}`},

	"ShellService/OpenShell":    {action: "shell.open", body: `{"jobId":"$job","spec":{"command":["true"]}}`},
	"ShellService/CloseShell":   {action: "shell.end", body: `{"shellId":"$spare_shell"}`},
	"ShellService/SendShell":    {silent: ofAShell},
	"ShellService/ReceiveShell": {silent: ofAShell},

	"QueueService/SetLimit":      {action: "limit.set", body: `{"kind":"LIMIT_KIND_LABEL","name":"cap:new","most":5}`},
	"QueueService/DeleteLimit":   {action: "limit.delete", body: `{"kind":"LIMIT_KIND_LABEL","name":"cap:old"}`},
	"QueueService/SetRepoWeight": {action: "weight.set", body: `{"repo":"$repo_name","percent":50}`},
	"QueueService/SetOrgWeight":  {action: "weight.set", body: `{"org":"$org","percent":50}`},

	"RerunService/SetRerunPolicy": {action: "rerun_policy.set", body: `{"policy":{"perRun":1,"perHour":5}}`},

	"RegistryService/RemoveImages":         {silent: ofTheRegistry},
	"RegistryService/SetRegistryRules":     {action: "registry.set_rules", body: `{"repo":"none"}`},
	"RegistryService/SetRegistryQuota":     {action: "registry.set_quota", body: `{"org":"$org","bytes":"1000"}`},
	"RegistryService/CollectRegistry":      {silent: onlySooner},
	"RegistryService/SetRegistryMirror":    {action: "registry.set_mirror", body: `{"name":"new.test","allow":["*"]}`},
	"RegistryService/RemoveRegistryMirror": {silent: ofTheRegistry},
	"CacheService/RemoveCacheEntries":      {action: "cache.remove", body: `{"filter":{"id":"$cache_entry"}}`},
	"CacheService/WarmCache":               {action: "cache.warm", body: `{"filter":{"id":"$warm_entry"}}`},
	"CacheService/SetRepoCacheQuota":       {action: "cache.set_quota", body: `{"repo":"$repo_name","bytes":"1000000"}`},
	"CacheService/SetOrgCacheQuota":        {action: "cache.set_quota", body: `{"org":"$org","bytes":"1000000"}`},
	"CacheService/SetCacheRetention":       {action: "cache.set_retention", body: `{"retention":"86400s"}`},

	"LogService/SearchLogs":             {silent: onlyReads},
	"LogService/SetLogRetention":        {action: "logs.set_retention", body: `{"days":30}`},
	"LogService/SetDefaultLogRetention": {action: "logs.set_retention", body: `{"days":30}`},

	"RateService/SetRate": {action: "rate.set", body: `{"org":"$org","kind":"RATE_KIND_WEBHOOKS","rate":"5/10"}`},

	"TelemetryService/SetOrgTelemetry": {action: "telemetry.set", body: `{"off":true}`},

	"OrgCacheService/SetOrgCache": {action: "org_cache.set", body: `{"githubJobs":false}`},

	"HostService/CreateJoinToken": {action: "token.create", body: `{}`},
	"HostService/CordonHost":      {action: "host.cordon", body: `{"hostId":"$spare_host","cordoned":true}`},
	"HostService/RemoveHost":      {action: "host.remove", body: `{"hostId":"$spare_host"}`},

	"GitHubService/ConnectApp":          {silent: ofTheServer},
	"GitHubService/ConvertManifest":     {silent: ofTheServer},
	"GitHubService/RotateWebhookSecret": {silent: ofTheServer},
	"GitHubService/RemoveApp":           {silent: ofTheServer},
	"GitHubService/ExamineApps":         {silent: onlyReads},

	"GitHubRunnerService/SetRunnerPlace": {silent: ofTheRunners},
	"GitHubRunnerService/AddScaleSet":    {silent: ofTheRunners},
	"GitHubRunnerService/RemoveScaleSet": {silent: ofTheRunners},

	"OrgService/CreateOrg":    {action: "org.create", body: `{"name":"$new_org"}`},
	"OrgService/SetOrgOwners": {action: "org.owners", body: `{"org":"$org","owners":["$owner"]}`},
	"OrgService/DeleteOrg":    {action: "org.delete", body: `{"org":"$empty_org"}`},
	"OrgService/MoveRepo":     {action: "repo.move", body: `{"repo":"$repo","toOrg":"$org"}`},

	"UserService/CreateUser":       {action: "user.create", body: `{"email":"$new_user"}`},
	"UserService/SetPlatformAdmin": {action: "user.platform", body: `{"user":"$spare_user","platformAdmin":true}`},
	"UserService/RemoveUser":       {action: "user.remove", body: `{"user":"$gone_user"}`},

	"MemberService/SetMember":    {action: "member.set", body: `{"email":"$new_member","role":"viewer"}`},
	"MemberService/RemoveMember": {action: "member.remove", body: `{"userId":"$spare_member"}`},

	"ServiceAccountService/CreateServiceAccount": {action: "account.create", body: `{"name":"$new_account","role":"viewer"}`},
	"ServiceAccountService/DeleteServiceAccount": {action: "account.delete", body: `{"accountId":"$spare_account"}`},

	"TokenService/CreateToken": {action: "token.create", body: `{"name":"made","accountId":"$account"}`},
	"TokenService/RevokeToken": {action: "token.revoke", body: `{"tokenId":"$spare_token"}`},

	"AgentService/Join": {action: "host.join", spends: true, as: "nobody",
		body: `{"joinToken":"$join_token","name":"new","version":"test","inventory":{"arch":"amd64","cpus":1,"memoryMib":1024}}`},
	"AgentService/Hello":            {silent: ofAHost},
	"AgentService/CreateCacheToken": {silent: ofAHost},
	"AgentService/Poll":             {silent: ofAHost},
	"AgentService/Accept":           {silent: ofAHost},
	"AgentService/Heartbeat":        {silent: ofAHost},
	"AgentService/ReportPhase":      {silent: ofAHost},
	"AgentService/CreateRunner":     {silent: ofAHost},
	"AgentService/AppendLog":        {silent: ofAHost},
	"AgentService/ReportUsage":      {silent: ofAHost},
	"AgentService/FinishAttempt":    {silent: ofAHost},
	"AgentService/AppendTelemetry":  {silent: ofAHost},

	"AgentService/AttachShell":       {silent: ofAShell},
	"AgentService/SendShellOutput":   {silent: ofAShell},
	"AgentService/ReceiveShellInput": {silent: ofAShell},

	"SessionService/OpenSession": {silent: ownProof},
	"SessionService/EnrollKey":   {action: "host.enroll", as: "host", body: `{"publicKey":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`},
}

// TestEveryPowerIsRecorded makes each call of the API that changes something,
// once while the ledger can't be written, and once more. The first must fail
// and change nothing, the second be recorded.
func TestEveryPowerIsRecorded(t *testing.T) {
	t.Parallel()
	p, books := startBreakable(t)
	acme := newTenant(t, p, "acme")
	p.addSpent(t, acme)
	known := map[string]bool{}
	for _, procedure := range httpapi.Procedures() {
		call := strings.TrimPrefix(procedure, "/nimbus.v1.")
		_, name, _ := strings.Cut(call, "/")
		m, said := mutations[call]
		known[call] = true
		switch {
		case strings.HasPrefix(name, "Get"), strings.HasPrefix(name, "List"):
			if said {
				t.Errorf("%s reads by its name, and is among those that change something", call)
			}
		case !said:
			t.Errorf("nobody said what the ledger hears of %s: add it to the table of mutations", call)
		case (m.action == "") == (m.silent == ""):
			t.Errorf("%s has either an action or a reason why it has none", call)
		case m.action != "":
			t.Run(strings.ReplaceAll(call, "/", "."), func(t *testing.T) { p.recordsIt(t, acme, call, m, books) })
		}
	}
	for call := range maps.Keys(mutations) {
		if !known[call] {
			t.Errorf("%s is not in the API", call)
		}
	}
}

// recordsIt makes one call of TestEveryPowerIsRecorded.
func (p *plane) recordsIt(t *testing.T, tn tenant, call string, m mutation, b books) {
	headers := append(bearer(p.admin), wire.OrgHeader, tn.org.ID)
	switch m.as {
	case "host":
		headers = bearer(tn.host.token)
	case "nobody":
		headers = nil
	}
	tn.renew(t, p)
	ask := func() answer { return p.ask(t, http.MethodPost, "/nimbus.v1."+call, tn.fill(m.body), headers...) }
	before := p.countOf(t, tn, m.action)
	if !m.spends {
		was := b.read(t)
		b.breakLedger(t, true)
		got := ask()
		b.breakLedger(t, false)
		if diff := cmp.Diff(was, b.read(t)); diff != "" {
			t.Errorf("without a ledger it had an effect (-before +after):\n%s", diff)
		}
		if got.status < http.StatusInternalServerError {
			t.Errorf("without a ledger it is answered %d %s", got.status, got.body)
		}
		if n := p.countOf(t, tn, m.action) - before; n != 0 {
			t.Errorf("the call that failed left %d entries", n)
		}
	}
	if got := ask(); got.status != http.StatusOK {
		t.Fatalf("answered %d %s", got.status, got.body)
	}
	if n := p.countOf(t, tn, m.action) - before; n != 1 {
		t.Errorf("%d entries of %s tell of it, not 1", n, m.action)
	}
}

// countOf is how many entries of an action there are, of the org's and the
// platform's chain together.
func (p *plane) countOf(t *testing.T, tn tenant, action string) (n int) {
	t.Helper()
	for _, org := range []string{"", tn.org.ID} {
		_, entries := p.recorded(t, org)
		for _, e := range entries {
			if e.Action == action && e.Outcome == nimbus.AuditAllowed {
				n++
			}
		}
	}
	return n
}

// addSpent adds to a tenant what the mutations use up.
func (p *plane) addSpent(t *testing.T, tn tenant) {
	t.Helper()
	ctx := t.Context()
	held := p.held(t, tn) // before there are others that a host could have
	ended := tn.submit(t, p, "ended job", "")
	_, err := p.scheduler.Cancel(ctx, tn.admin, tn.org.ID, ended.ID)
	must(t, err)
	must(t, p.scheduler.SetLimit(ctx, tn.admin, nimbus.Limit{OrgID: tn.org.ID, Kind: nimbus.LimitLabel, Name: "cap:old", Most: 1}))
	empty, err := p.identity.CreateOrg(ctx, identity.Root(), "empty", nil)
	must(t, err)
	gone, err := p.identity.CreateUser(ctx, identity.Root(), "gone@acme.example", "", false)
	must(t, err)
	join, _, err := p.identity.IssueJoin(ctx, identity.Root(), 0)
	must(t, err)
	maps.Copy(tn.things, map[string]string{
		"ended_job": ended.ID, "waiting_job": tn.submit(t, p, "waiting job", "").ID, "spare_job": p.waiting(t, tn).ID,
		"cache_entry": p.savedInCache(t, tn, "tools"), "warm_entry": p.savedInCache(t, tn, "more tools"), "held_job": held, "empty_org": empty.ID, "gone_user": gone.ID, "join_token": join,
	})
}

// savedInCache is an entry of the cache.
func (p *plane) savedInCache(t *testing.T, tn tenant, key string) string {
	t.Helper()
	c := cache.Caller{OrgID: tn.org.ID, Repo: tn.things["repo_name"], Write: "refs/heads/main"}
	u, err := p.cache.Reserve(t.Context(), c, key, "v", 0)
	must(t, err)
	must(t, p.cache.PutBlock(t.Context(), u.ID, "", strings.NewReader("saved"), 5))
	e, err := p.cache.Commit(t.Context(), c, key, "v", 5)
	must(t, err)
	return fmt.Sprint(e.ID)
}

// held is a job that has failed, whose sandbox stays.
func (p *plane) held(t *testing.T, tn tenant) string {
	t.Helper()
	j, err := p.scheduler.Submit(t.Context(), tn.admin, scheduler.Submission{
		Class: nimbus.Class{Executor: nimbus.ExecutorLocal}, Spec: nimbus.Spec{Command: []string{"false"}, Hold: time.Hour}})
	must(t, err)
	lease := tn.host.accept(t)
	code := int32(1)
	answer, err := tn.host.FinishAttempt(t.Context(), connect.NewRequest(&nimbusv1.FinishAttemptRequest{
		Lease: lease, Hold: true, Outcome: &nimbusv1.Outcome{Result: nimbusv1.JobResult_JOB_RESULT_FAILURE, ExitCode: &code},
	}))
	must(t, err)
	if !answer.Msg.GetHeld() {
		t.Fatal("it is not held")
	}
	return j.ID
}

// waiting is a job that no host can have.
func (p *plane) waiting(t *testing.T, tn tenant) nimbus.Job {
	t.Helper()
	j, err := p.scheduler.Submit(t.Context(), tn.admin, scheduler.Submission{
		Class: nimbus.Class{Executor: nimbus.ExecutorMicroVM}, Spec: nimbus.Spec{Command: []string{"true"}}})
	must(t, err)
	return j
}

// books is a plane's database, from below.
type books struct{ *sql.DB }

// startBreakable is a plane whose ledger can be made unwritable.
func startBreakable(t *testing.T) (*plane, books) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "nimbus.db")
	lines, err := segment.Open(filepath.Join(dir, "logs"), 1<<30)
	must(t, err)
	t.Cleanup(func() { lines.Close() })
	blobs, err := fs.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	t.Cleanup(func() { blobs.Close() })
	p := startPlaneOn(t, openStore(t, "sqlite:"+path), lines, blobs)
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(10000)")
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return p, books{db}
}

func (b books) breakLedger(t *testing.T, broken bool) {
	t.Helper()
	from, to := "audit_outbox", "audit_outbox_away"
	if !broken {
		from, to = to, from
	}
	_, err := b.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to)
	must(t, err)
}

// read is what calls change, without what changes by itself.
func (b books) read(t *testing.T) (rows []string) {
	t.Helper()
	for _, query := range []string{
		"SELECT * FROM orgs", "SELECT * FROM owners", "SELECT * FROM repos", "SELECT * FROM limits", "SELECT * FROM org_rates", "SELECT * FROM users", "SELECT * FROM memberships",
		"SELECT * FROM service_accounts", "SELECT * FROM host_keys", "SELECT id, state FROM tokens", "SELECT id, cordoned_at, removed_at FROM hosts",
		"SELECT id, priority, rerun_of FROM jobs", "SELECT id, state FROM shells", "SELECT id, stop_at FROM attempts", "SELECT id, state FROM cache_entries", "SELECT org_id, repo, bytes, quota, unused FROM cache_usage", "SELECT job_id, kind, actor FROM job_events WHERE actor LIKE 'admin:%'",
	} {
		rows = append(rows, b.rows(t, query)...)
	}
	return rows
}

func (b books) rows(t *testing.T, query string) (rows []string) {
	t.Helper()
	got, err := b.QueryContext(t.Context(), query)
	must(t, err)
	defer got.Close()
	columns, err := got.Columns()
	must(t, err)
	for got.Next() {
		row, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		must(t, got.Scan(into...))
		rows = append(rows, fmt.Sprint(query, row))
	}
	must(t, got.Err())
	return rows
}
