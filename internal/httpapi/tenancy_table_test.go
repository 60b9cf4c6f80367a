package httpapi_test

// expectation is what the tenancy matrix expects of a call: who may make it,
// and which request shows whether somebody can who may not. $job and the like
// stand for things of the org that a case is about (tenancy_world_test.go).
type expectation struct {
	// who is the least role, or "platform", "host", "person" (everybody with a
	// role anywhere) or "anybody" (who holds no token, too).
	who   string
	scope string // that a token with scopes needs
	path  string // of a plain route, where it isn't the pattern
	body  string
	// bound is set for what is bound to an org although who is no role.
	bound bool
	// refuses is set where the request is one that nobody gets a 2xx for.
	refuses bool
}

// tenancy is written by hand, apart from the table that it tests. A new RPC or
// route fails the test until it has a line here. A second line for the same has
// a # and a word behind its name.
var tenancy = map[string]expectation{
	"/nimbus.v1.JobService/SubmitJob":     {who: "developer", scope: "jobs:write", body: `{"spec":{"command":["true"]}}`},
	"/nimbus.v1.JobService/GetJob":        {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job"}`},
	"/nimbus.v1.JobService/ListJobs":      {who: "viewer", scope: "jobs:read", body: `{}`},
	"/nimbus.v1.JobService/ListJobs#repo": {who: "viewer", scope: "jobs:read", body: `{"repo":"$repo_name"}`},
	"/nimbus.v1.JobService/SummarizeJobs": {who: "viewer", scope: "jobs:read", body: `{}`},
	"/nimbus.v1.JobService/ListJobEvents": {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job"}`},
	"/nimbus.v1.JobService/GetUsage":      {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job","attemptId":"$attempt"}`},
	"/nimbus.v1.JobService/CancelJob":     {who: "developer", scope: "jobs:write", body: `{"jobId":"$waiting_job"}`},

	"/nimbus.v1.JobService/RerunJob":       {who: "developer", scope: "jobs:write", body: `{"jobId":"$job"}`, refuses: true},
	"/nimbus.v1.JobService/SetJobPriority": {who: "developer", scope: "jobs:write", body: `{"jobId":"$spare_job","priority":1}`},

	"/nimbus.v1.JobService/ReleaseJob": {who: "developer", scope: "jobs:write", body: `{"jobId":"$job"}`},

	// A shell is of who opened it: an administrator of the platform, here.
	"/nimbus.v1.ShellService/OpenShell":    {who: "operator", scope: "shells", body: `{"jobId":"$job","spec":{"command":["true"]}}`},
	"/nimbus.v1.ShellService/SendShell":    {who: "operator", scope: "shells", body: `{"shellId":"$shell","seq":"1","frames":[{"input":"eA=="}]}`},
	"/nimbus.v1.ShellService/ReceiveShell": {who: "operator", scope: "shells", body: `{"shellId":"$shell"}`},
	"/nimbus.v1.ShellService/CloseShell":   {who: "operator", scope: "shells", body: `{"shellId":"$spare_shell"}`},
	"/nimbus.v1.ShellService/ListShells":   {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job"}`},

	"/nimbus.v1.QueueService/GetQueue":      {who: "viewer", scope: "jobs:read", body: `{}`},
	"/nimbus.v1.QueueService/ListLimits":    {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.QueueService/SetLimit":      {who: "operator", scope: "org:write", body: `{"kind":"LIMIT_KIND_LABEL","name":"cap:$org","most":5}`},
	"/nimbus.v1.QueueService/DeleteLimit":   {who: "operator", scope: "org:write", body: `{"kind":"LIMIT_KIND_LABEL","name":"none"}`, refuses: true},
	"/nimbus.v1.QueueService/ListWeights":   {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.QueueService/SetRepoWeight": {who: "operator", scope: "org:write", body: `{"repo":"$repo_name","percent":100}`},
	"/nimbus.v1.QueueService/SetOrgWeight":  {who: "platform", scope: "org:write", body: `{"org":"$org","percent":100}`},

	"/nimbus.v1.RegistryService/ListRegistryRepos":    {who: "viewer", scope: "registry:read", body: `{}`},
	"/nimbus.v1.RegistryService/ListImages":           {who: "viewer", scope: "registry:read", body: `{"repo":"none"}`, refuses: true},
	"/nimbus.v1.RegistryService/RemoveImages":         {who: "operator", scope: "registry:write", body: `{"repo":"none"}`, refuses: true},
	"/nimbus.v1.RegistryService/SetRegistryRules":     {who: "operator", scope: "registry:write", body: `{"repo":"none"}`},
	"/nimbus.v1.RegistryService/SetRegistryQuota":     {who: "platform", scope: "org:write", body: `{"org":"$org","bytes":"-1"}`},
	"/nimbus.v1.RegistryService/CollectRegistry":      {who: "platform", scope: "registry:write", body: `{}`},
	"/nimbus.v1.RegistryService/ListRegistryMirrors":  {who: "viewer", scope: "registry:read", body: `{}`},
	"/nimbus.v1.RegistryService/SetRegistryMirror":    {who: "admin", scope: "registry:write", body: `{"name":"hub.test"}`},
	"/nimbus.v1.RegistryService/RemoveRegistryMirror": {who: "admin", scope: "registry:write", body: `{"name":"none.test"}`, refuses: true},

	"/nimbus.v1.CacheService/ListCacheEntries":   {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.CacheService/GetCacheStats":      {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.CacheService/RemoveCacheEntries": {who: "operator", scope: "org:write", body: `{"filter":{"id":"1"}}`, refuses: true},
	"/nimbus.v1.CacheService/WarmCache":          {who: "operator", scope: "org:write", body: `{"filter":{"key":"none"}}`, refuses: true},
	"/nimbus.v1.CacheService/GetCacheWarmth":     {who: "operator", scope: "org:read", body: `{}`},
	"/nimbus.v1.CacheService/SetRepoCacheQuota":  {who: "operator", scope: "org:write", body: `{"repo":"$repo_name","bytes":"1000000"}`},
	"/nimbus.v1.CacheService/SetCacheRetention":  {who: "operator", scope: "org:write", body: `{"retention":"86400s"}`},
	"/nimbus.v1.CacheService/SetOrgCacheQuota":   {who: "platform", scope: "org:write", body: `{"org":"$org","bytes":"1000000"}`},

	"/nimbus.v1.RateService/ListRates":               {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.RateService/SetRate":                 {who: "platform", scope: "org:write", body: `{"org":"$org","kind":"RATE_KIND_WEBHOOKS","rate":"off"}`},
	"/nimbus.v1.TelemetryService/GetTrace":           {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job"}`},
	"/nimbus.v1.TelemetryService/ListTelemetry":      {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job","signal":"logs"}`},
	"/nimbus.v1.TelemetryService/ListTelemetry#from": {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job","signal":"metrics","pageToken":"$attempt:1:0"}`},
	"/nimbus.v1.TelemetryService/GetOrgTelemetry":    {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.TelemetryService/SetOrgTelemetry":    {who: "admin", scope: "org:write", body: `{"off":false}`},

	"/nimbus.v1.OrgCacheService/GetOrgCache": {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.OrgCacheService/SetOrgCache": {who: "admin", scope: "org:write", body: `{"githubJobs":true}`},
	"/nimbus.v1.RerunService/GetRerunPolicy": {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.RerunService/SetRerunPolicy": {who: "operator", scope: "org:write", body: `{"policy":{"perRun":1,"perHour":5}}`},

	"/nimbus.v1.HostService/ListHosts":       {who: "platform", scope: "hosts:read", body: `{}`},
	"/nimbus.v1.HostService/ListHostJobs":    {who: "platform", scope: "hosts:read", body: `{}`},
	"/nimbus.v1.HostService/CreateJoinToken": {who: "platform", scope: "hosts:write", body: `{}`},
	"/nimbus.v1.HostService/CordonHost":      {who: "platform", scope: "hosts:write", body: `{"hostId":"$spare_host"}`},
	"/nimbus.v1.HostService/RemoveHost":      {who: "platform", scope: "hosts:write", body: `{"hostId":"$spare_host"}`},

	"/nimbus.v1.GitHubService/ListApps":            {who: "platform", scope: "org:read", body: `{}`},
	"/nimbus.v1.GitHubService/ConnectApp":          {who: "platform", scope: "org:write", body: `{"appId":"1"}`},
	"/nimbus.v1.GitHubService/ConvertManifest":     {who: "platform", scope: "org:write", body: `{"code":"x"}`},
	"/nimbus.v1.GitHubService/RotateWebhookSecret": {who: "platform", scope: "org:write", body: `{"appId":"1"}`},
	"/nimbus.v1.GitHubService/RemoveApp":           {who: "platform", scope: "org:write", body: `{"appId":"1"}`},
	"/nimbus.v1.GitHubService/ListInstallations":   {who: "platform", scope: "org:read", body: `{}`},
	"/nimbus.v1.GitHubService/ExamineApps":         {who: "platform", scope: "org:write", body: `{}`},

	"/nimbus.v1.GitHubRunnerService/ListRunnerPlaces": {who: "platform", scope: "org:read", body: `{}`},
	"/nimbus.v1.GitHubRunnerService/SetRunnerPlace":   {who: "platform", scope: "org:write", body: `{"installationId":"1"}`},
	"/nimbus.v1.GitHubRunnerService/ListScaleSets":    {who: "platform", scope: "org:read", body: `{}`},
	"/nimbus.v1.GitHubRunnerService/AddScaleSet":      {who: "platform", scope: "org:write", body: `{"installationId":"1","name":"x"}`},
	"/nimbus.v1.GitHubRunnerService/RemoveScaleSet":   {who: "platform", scope: "org:write", body: `{"id":"x"}`},

	"/nimbus.v1.LogService/SearchLogs":             {who: "viewer", scope: "jobs:read", body: `{}`},
	"/nimbus.v1.LogService/SearchLogs#job":         {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job"}`},
	"/nimbus.v1.LogService/SearchLogs#repo":        {who: "viewer", scope: "jobs:read", body: `{"repo":"$repo_name"}`},
	"/nimbus.v1.LogService/GetLogStats":            {who: "viewer", scope: "jobs:read", body: `{"jobId":"$job"}`},
	"/nimbus.v1.LogService/GetLogRetention":        {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.LogService/SetLogRetention":        {who: "admin", scope: "org:write", body: `{"days":30}`},
	"/nimbus.v1.LogService/SetDefaultLogRetention": {who: "platform", scope: "org:write", body: `{"days":30}`},

	"/nimbus.v1.ReportService/GetReport": {who: "viewer", scope: "jobs:read", body: `{"span":"86400s"}`},

	"/nimbus.v1.OrgService/ListOrgs":     {who: "person", scope: "org:read", body: `{}`, bound: true},
	"/nimbus.v1.OrgService/CreateOrg":    {who: "platform", scope: "org:write", body: `{"name":"$new_org"}`},
	"/nimbus.v1.OrgService/SetOrgOwners": {who: "platform", scope: "org:write", body: `{"org":"$org","owners":["$owner"]}`},
	"/nimbus.v1.OrgService/DeleteOrg":    {who: "platform", scope: "org:write", body: `{"org":"$org"}`, refuses: true},
	"/nimbus.v1.OrgService/ListRepos":    {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.OrgService/MoveRepo":     {who: "platform", scope: "org:write", body: `{"repo":"$repo","toOrg":"$org"}`},

	"/nimbus.v1.UserService/CreateUser":       {who: "platform", scope: "org:write", body: `{"email":"$new_user"}`},
	"/nimbus.v1.UserService/ListUsers":        {who: "platform", scope: "org:read", body: `{}`},
	"/nimbus.v1.UserService/SetPlatformAdmin": {who: "platform", scope: "org:write", body: `{"user":"$spare_user"}`},
	"/nimbus.v1.UserService/RemoveUser":       {who: "platform", scope: "org:write", body: `{"user":"$spare_user"}`},

	"/nimbus.v1.MemberService/ListMembers":  {who: "viewer", scope: "org:read", body: `{}`},
	"/nimbus.v1.MemberService/SetMember":    {who: "admin", scope: "org:write", body: `{"email":"$new_member","role":"viewer"}`},
	"/nimbus.v1.MemberService/RemoveMember": {who: "admin", scope: "org:write", body: `{"userId":"$spare_member"}`},

	"/nimbus.v1.ServiceAccountService/CreateServiceAccount": {who: "admin", scope: "org:write", body: `{"name":"$new_account","role":"viewer"}`},
	"/nimbus.v1.ServiceAccountService/ListServiceAccounts":  {who: "operator", scope: "org:read", body: `{}`},
	"/nimbus.v1.ServiceAccountService/DeleteServiceAccount": {who: "admin", scope: "org:write", body: `{"accountId":"$spare_account"}`},

	// An administrator of the platform has no token of its own in an org.
	"/nimbus.v1.TokenService/CreateToken":          {who: "member", scope: "tokens:write", body: `{"name":"made"}`, bound: true},
	"/nimbus.v1.TokenService/CreateToken#account":  {who: "admin", scope: "tokens:write", body: `{"name":"made","accountId":"$account"}`},
	"/nimbus.v1.TokenService/CreateToken#user":     {who: "platform", scope: "tokens:write", body: `{"name":"made","user":"nobody@members.example"}`, bound: true, refuses: true},
	"/nimbus.v1.TokenService/CreateToken#platform": {who: "platform", scope: "tokens:write", body: `{"name":"made","platform":true}`, bound: true},
	"/nimbus.v1.TokenService/ListTokens":           {who: "viewer", scope: "tokens:read", body: `{}`},
	"/nimbus.v1.TokenService/ListTokens#platform":  {who: "platform", scope: "tokens:read", body: `{"platform":true}`, bound: true},
	"/nimbus.v1.TokenService/RevokeToken":          {who: "viewer", scope: "tokens:write", body: `{"tokenId":"$spare_token"}`},
	"/nimbus.v1.TokenService/RevokeToken#keep":     {who: "platform", scope: "tokens:write", body: `{"tokenId":"$spare_token","keepTokenId":"$spare_token"}`, bound: true, refuses: true},

	"/nimbus.v1.AuditService/ListAuditEntries":              {who: "admin", scope: "audit:read", body: `{}`},
	"/nimbus.v1.AuditService/ListAuditEntries#platform":     {who: "platform", scope: "audit:read", body: `{"platform":true}`, bound: true},
	"/nimbus.v1.AuditService/ListAuditCheckpoints":          {who: "admin", scope: "audit:read", body: `{}`},
	"/nimbus.v1.AuditService/ListAuditCheckpoints#platform": {who: "platform", scope: "audit:read", body: `{"platform":true}`, bound: true},
	"/nimbus.v1.AuditService/GetAuditKey":                   {who: "admin", scope: "audit:read", body: `{}`},

	"/nimbus.v1.AgentService/Join":             {who: "anybody", body: `{}`, refuses: true},
	"/nimbus.v1.AgentService/Hello":            {who: "host", body: `{"version":"test","inventory":{"arch":"amd64","cpus":8,"memoryMib":8192,"executors":[{"name":"local","available":true}]},"leases":[$lease]}`},
	"/nimbus.v1.AgentService/Poll":             {who: "host", body: `{}`},
	"/nimbus.v1.AgentService/Accept":           {who: "host", body: `{"lease":$lease}`},
	"/nimbus.v1.AgentService/Heartbeat":        {who: "host", body: `{"leases":[$lease]}`},
	"/nimbus.v1.AgentService/ReportPhase":      {who: "host", body: `{"lease":$lease,"phase":"started"}`},
	"/nimbus.v1.AgentService/CreateCacheToken": {who: "host", body: `{"lease":$lease}`, refuses: true},
	"/nimbus.v1.AgentService/CreateRunner":     {who: "host", body: `{"lease":$lease}`, refuses: true},
	"/nimbus.v1.AgentService/AppendLog":        {who: "host", body: `{"lease":$lease,"lines":[{"seq":"4","at":"2026-01-01T00:00:00Z","stream":"stdout","text":"more"}]}`},
	"/nimbus.v1.AgentService/ReportUsage":      {who: "host", body: `{"usages":[{"lease":$lease,"series":{"startAt":"2026-01-01T00:00:00Z","step":"1s","points":[{"atMs":"1000","cpuMs":"900"}]}}]}`},
	"/nimbus.v1.AgentService/AppendTelemetry":  {who: "host", body: `{"lease":$lease,"batches":[{"seq":"1","signal":"traces","items":1,"data":"eA=="}]}`},
	"/nimbus.v1.AgentService/FinishAttempt":    {who: "host", body: `{"lease":$lease,"outcome":{"result":"JOB_RESULT_SUCCESS","exitCode":0}}`},

	"/nimbus.v1.AgentService/AttachShell":       {who: "host", body: `{"lease":$lease,"shellId":"$shell"}`},
	"/nimbus.v1.AgentService/SendShellOutput":   {who: "host", body: `{"lease":$lease,"shellId":"$shell","seq":"1","frames":[{"output":{"stream":"stdout","data":"eA=="}}]}`},
	"/nimbus.v1.AgentService/ReceiveShellInput": {who: "host", body: `{"lease":$lease,"shellId":"$shell"}`},

	"/nimbus.v1.SessionService/OpenSession": {who: "anybody", body: `{"hostId":"host_x","number":"1","tokenSha256":"0000000000000000000000000000000000000000000000000000000000000000"}`, refuses: true},
	"/nimbus.v1.SessionService/EnrollKey":   {who: "host", body: `{"publicKey":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`},

	"GET /api/v1/jobs/stream":                            {who: "viewer", scope: "jobs:read"},
	"GET /api/v1/logs/export":                            {who: "admin", scope: "jobs:read"},
	"POST /api/v1/logs/import":                           {who: "admin", scope: "org:write", refuses: true},
	"GET /api/v1/logs/stream":                            {who: "viewer", scope: "jobs:read", path: "/api/v1/logs/stream?jobs=$job"},
	"GET /api/v1/jobs/{id}/log":                          {who: "viewer", scope: "jobs:read", path: "/api/v1/jobs/$job/log"},
	"GET /api/v1/jobs/{id}/log/outline":                  {who: "viewer", scope: "jobs:read", path: "/api/v1/jobs/$job/log/outline"},
	"GET /api/v1/jobs/{id}/trace":                        {who: "viewer", scope: "jobs:read", path: "/api/v1/jobs/$job/trace"},
	"GET /api/v1/jobs/{id}/log/stream":                   {who: "viewer", scope: "jobs:read", path: "/api/v1/jobs/$job/log/stream"},
	"GET /api/v1/jobs/{id}/shells/{shell}/recording":     {who: "operator", scope: "jobs:read", path: "/api/v1/jobs/$job/shells/$shell/recording"},
	"GET /api/v1/jobs/{id}/shells/{shell}/recording#job": {who: "operator", scope: "jobs:read", path: "/api/v1/jobs/$waiting_job/shells/$shell/recording", refuses: true},

	"PUT /api/v1/workspaces":      {who: "developer", scope: "jobs:write", body: "files"},
	"GET /api/v1/workspaces/{id}": {who: "host", path: "/api/v1/workspaces/$workspace?attempt=$attempt&fence=$fence"},
	"GET /api/v1/me":              {who: "person", bound: true},
	"POST /api/v1/logins":         {who: "login", bound: true},
	"POST /api/v1/logins#another": {who: "platform", body: `{"user":"$spare_user"}`, bound: true},
	"POST /api/v1/logout":         {who: "person", bound: true},
	"GET /metrics":                {who: "platform", scope: "metrics:read"},
	"GET /debug/pprof/":           {who: "platform", scope: "org:write"},
	"GET /login":                  {who: "anybody", refuses: true},
	"GET /healthz":                {who: "anybody"},
	"GET /readyz":                 {who: "anybody"},
	"/webhooks/github":            {who: "anybody", refuses: true},
	"/":                           {who: "anybody"},

	// What their tokens and signatures open: test/cache.
	"/_apis/artifactcache/": {who: "anybody", refuses: true},

	"/twirp/github.actions.results.api.v1.ArtifactService/": {who: "anybody", refuses: true},
	"/_cache/": {who: "anybody", refuses: true},
	"/cache/":  {who: "anybody", refuses: true},
	"/v2/":     {who: "anybody", refuses: true},
	"/twirp/github.actions.results.api.v1.CacheService/": {who: "anybody", refuses: true},
}
