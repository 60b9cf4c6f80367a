// Package httpapi is the one door of the control plane: Connect services for
// people, tools and host agents, GitHub's webhook, plain HTTP for what is not
// a message (logs, workspaces, logins), and the dashboard.
//
// Who may call what is one table (access.go); which org a call acts in is
// bound in one place (caller.go); errors become answers in one table
// (internal/wire).
package httpapi

import (
	"cmp"
	"context"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// Jobs is what people do with jobs.
type Jobs interface {
	Submit(ctx context.Context, p nimbus.Principal, s scheduler.Submission) (nimbus.Job, error)
	Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error)
	Jobs(ctx context.Context, orgID string, f scheduler.JobFilter) (scheduler.JobPage, error)
	EventPage(ctx context.Context, orgID, jobID string, size int, after string) (events []nimbus.JobEvent, next string, err error)
	Cancel(ctx context.Context, p nimbus.Principal, orgID, jobID string) (nimbus.Job, error)
	Rerun(ctx context.Context, p nimbus.Principal, orgID, jobID, key string) (nimbus.Job, error)
	SetPriority(ctx context.Context, p nimbus.Principal, orgID, jobID string, priority int) (nimbus.Job, error)
	Release(ctx context.Context, p nimbus.Principal, orgID, jobID string) (nimbus.Job, error)
	Place(ctx context.Context, orgID, jobID string) (*nimbus.QueuePlace, error)
	Usage(ctx context.Context, orgID, jobID, attemptID string) (scheduler.JobUsage, error)
	Outcomes(ctx context.Context, orgID string, f scheduler.SummaryFilter, begin func() func(nimbus.JobOutcome)) (nimbus.SummaryWindow, error)
	FinishedRuns(ctx context.Context, orgID string, span time.Duration) (runs []nimbus.Run, since, until time.Time, sampled bool, err error)
}

// Hosts is what host agents do, and what operators do with hosts.
type Hosts interface {
	Hosts(ctx context.Context) ([]nimbus.Host, error)
	HostJobs(ctx context.Context) (jobs []nimbus.HostJob, more bool, err error)
	HostPage(ctx context.Context, size int, after string) (hosts []nimbus.Host, next string, err error)
	CordonHost(ctx context.Context, p nimbus.Principal, hostID string, cordoned bool) error
	RemoveHost(ctx context.Context, p nimbus.Principal, hostID string, force bool) error
	RegisterHost(ctx context.Context, name, version string, inv nimbus.Inventory) (nimbus.Host, error)
	Hello(ctx context.Context, hostID, version string, inv nimbus.Inventory, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error)
	Poll(ctx context.Context, hostID string, free nimbus.Capacity, wait time.Duration) (scheduler.PollResult, error)
	Accept(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.Assignment, error)
	Heartbeat(ctx context.Context, hostID string, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error)
	ReportPhase(ctx context.Context, hostID string, l nimbus.Lease, p nimbus.Phase, start nimbus.Start) error
	ReportUsage(ctx context.Context, usages []scheduler.AttemptUsage) error
	CreateRunner(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.Runner, string, error)
	Finish(ctx context.Context, hostID string, l nimbus.Lease, o nimbus.Outcome) error
	FinishHeld(ctx context.Context, hostID string, l nimbus.Lease, o nimbus.Outcome) (held bool, err error)
	LogLease(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.LogKey, error)
	LogStored(ctx context.Context, key nimbus.LogKey, lines int64) error
}

// Identity knows who calls.
type Identity interface {
	HostSessions
	Authenticate(ctx context.Context, token string) (nimbus.Principal, error)
	AuthenticateSession(ctx context.Context, session string) (nimbus.Principal, error)
	IssueJoin(ctx context.Context, p nimbus.Principal, validFor time.Duration) (token string, expires time.Time, err error)
	RedeemJoin(ctx context.Context, token string) error
	IssueHost(ctx context.Context, hostID string) (string, error)
	CreateLogin(ctx context.Context, p nimbus.Principal, user string) (string, error)
	RedeemLogin(ctx context.Context, code string) (session string, validFor time.Duration, err error)
	EndSession(ctx context.Context, p nimbus.Principal, session string) error
	Directory
}

// GitHub is what an administrator does with GitHub Apps.
type GitHub interface {
	Apps(ctx context.Context) ([]nimbus.GitHubApp, error)
	Connect(ctx context.Context, p nimbus.Principal, appID int64, key, secret []byte, url string) (nimbus.GitHubApp, error)
	ConvertManifest(ctx context.Context, p nimbus.Principal, code, url string) (nimbus.GitHubApp, error)
	RotateWebhookSecret(ctx context.Context, p nimbus.Principal, appID int64) (nimbus.GitHubApp, error)
	Remove(ctx context.Context, p nimbus.Principal, appID int64) error
	Installations(ctx context.Context) ([]nimbus.GitHubInstallation, error)
	// Examine looks for what keeps the Apps from working.
	Examine(ctx context.Context) []nimbus.GitHubCheck
	// RunnerReleases are those of GitHub's runner that are known.
	RunnerReleases(ctx context.Context) ([]nimbus.RunnerReleases, error)
	GitHubRunners
}

// Audit is the audit ledger.
type Audit interface {
	Entries(ctx context.Context, orgID string, f nimbus.AuditFilter, page nimbus.PageRequest) (entries []nimbus.AuditEntry, next string, err error)
	Checkpoints(ctx context.Context, orgID string, page nimbus.PageRequest) (checkpoints []nimbus.AuditCheckpoint, next string, err error)
	// KeyPEM is the key that verifies checkpoints.
	KeyPEM() (string, error)
}

// Blobs is where workspaces lie.
type Blobs interface {
	PutAddressed(ctx context.Context, prefix string, r io.Reader, maxBytes int64) (sha256 string, err error)
	Open(ctx context.Context, key string) (io.ReadCloser, int64, error)
}

// Cache speaks with the cache clients of jobs, whose tokens and signed URLs it
// checks by itself.
type Cache interface {
	http.Handler
	// Token is for a job that was just assigned to a host; "" for one that has no
	// cache.
	Token(a nimbus.Assignment) (string, error)
	// As answers somebody, other than a job, who acts in an org and may read what
	// its own jobs saved; and save, too. still says whether that one still may, and is
	// asked while a content comes, and once it came.
	As(p nimbus.Principal, saves bool, still func(context.Context) error) http.Handler
	// Refuse answers, as that would, somebody who may not.
	Refuse(w http.ResponseWriter, r *http.Request, err error)
	// GitHubToken is for the host that holds a lease on an attempt that is proved to
	// run a job of GitHub's; reason is why that may do less than others. Codes:
	// conflict until it is proved, forbidden for one that has no cache, fenced.
	GitHubToken(ctx context.Context, hostID string, l nimbus.Lease) (token, reason string, err error)
	// Wishes takes in what a host tells of entries that it was asked for, and
	// returns those that it is asked for.
	Wishes(ctx context.Context, hostID string, warmed []nimbus.CacheWarmed) ([]nimbus.CacheWish, error)
}

// Config is what the door leads to. All fields down to Pages, and Log, are
// needed.
type Config struct {
	Jobs     Jobs
	Queue    Queue
	Reruns   Reruns
	Hosts    Hosts
	Identity Identity
	Logs     logs.Store // searched and counted where it is a logs.Searcher and a logs.Looker
	LogBooks LogBooks
	Blobs    Blobs
	Bus      bus.Bus
	GitHub   GitHub
	Audit    Audit
	Tally    Tally
	Rates    Rates
	OrgCache OrgCache
	Shells   Shells
	// Telemetry is what jobs tell by OTLP.
	Telemetry Telemetry
	Pages     fs.FS
	// Cache is what jobs save for later ones; nil where there is none.
	Cache Cache
	// Caches is what people look at of it; nil where there is none.
	Caches Caches
	// Registry makes the handler of images, which knows its callers by itself, and
	// has those counted that it doesn't know; nil where there is none.
	Registry func(stranger func(*http.Request) error) http.Handler
	// Images is what people do with them; nil where there are none.
	Images Images
	// Webhook takes GitHub's deliveries; nil where no GitHub App is connected.
	Webhook http.Handler
	// HostCertificates has hosts show a certificate, which the listener has
	// checked; connections without TLS are of this machine.
	HostCertificates bool
	// Checks tell whether requests should be sent here.
	Checks []Check
	// Metrics answers with the metrics; nil for none.
	Metrics http.Handler
	// Observer hears of requests; nil for nobody.
	Observer Observer
	// Gate holds the limits; nil for the default ones, held by this door alone.
	Gate *Gate
	// Origins say where requests may come from.
	Origins Origins
	// Secure marks cookies for https alone.
	Secure bool
	// Recheck is how often a stream's caller is looked at anew: one whose token
	// was revoked, who signed out or lost a role reads no further. Default 1 s.
	Recheck time.Duration
	Log     *slog.Logger
}

// Bounds of requests. Streams have no bound in time but their own.
const (
	// compressFrom is the size from which an answer is compressed: below, the
	// compressor costs more than the bytes.
	compressFrom = 4 << 10
	maxMessage   = 8 << 20
	maxStranger  = 64 << 10 // of a caller that nobody knows yet
	maxWorkspace = 256 << 20
	readyTimeout = 3 * time.Second
)

// New returns the handler of everything.
func New(cfg Config) http.Handler {
	api := &api{Config: cfg, followed: newFollowedLogs(cfg.Logs), jobs: newLookups[nimbus.Job](sharedTimeout, lookupsApart)}
	api.Recheck = cmp.Or(cfg.Recheck, time.Second)
	if api.Observer == nil {
		api.Observer = nobody{}
	}
	if api.Gate == nil {
		api.Gate = NewGate(Limits{}, nil, nil, api.Observer)
	}
	mux := http.NewServeMux()
	for path, handler := range api.services() {
		mux.Handle(path, api.admit(refusals(handler)))
	}
	for pattern, handler := range api.handlers() {
		mux.Handle(pattern, handler)
	}
	return api.guard(api.certified(mux))
}

// services are the calls of the contract, by their paths.
func (a *api) services() map[string]http.Handler {
	options := connect.WithHandlerOptions(
		connect.WithReadMaxBytes(maxMessage),
		connect.WithCompressMinBytes(compressFrom),
		connect.WithCodec(strictJSON{"json"}),
		connect.WithCodec(strictJSON{"json; charset=utf-8"}),
		connect.WithInterceptors(answers{a}, text{}),
		connect.WithRecover(a.recovered),
	)
	all := map[string]http.Handler{}
	add := func(path string, h http.Handler) { all[path] = h }
	add(nimbusv1connect.NewJobServiceHandler(jobService{a}, options))
	add(nimbusv1connect.NewQueueServiceHandler(queueService{a}, options))
	add(nimbusv1connect.NewRerunServiceHandler(rerunService{a}, options))
	add(nimbusv1connect.NewReportServiceHandler(reportService{a}, options))
	add(nimbusv1connect.NewHostServiceHandler(hostService{a}, options))
	add(nimbusv1connect.NewAgentServiceHandler(agentService{a}, options))
	add(nimbusv1connect.NewSessionServiceHandler(sessionService{a}, options))
	add(nimbusv1connect.NewGitHubServiceHandler(gitHubService{a}, options))
	add(nimbusv1connect.NewGitHubRunnerServiceHandler(gitHubRunnerService{a}, options))
	add(nimbusv1connect.NewOrgServiceHandler(orgService{a}, options))
	add(nimbusv1connect.NewUserServiceHandler(userService{a}, options))
	add(nimbusv1connect.NewMemberServiceHandler(memberService{a}, options))
	add(nimbusv1connect.NewServiceAccountServiceHandler(accountService{a}, options))
	add(nimbusv1connect.NewTokenServiceHandler(tokenService{a}, options))
	add(nimbusv1connect.NewAuditServiceHandler(auditService{a}, options))
	add(nimbusv1connect.NewRateServiceHandler(rateService{a}, options))
	add(nimbusv1connect.NewOrgCacheServiceHandler(orgCacheService{a}, options))
	add(nimbusv1connect.NewCacheServiceHandler(cacheService{a}, options))
	add(nimbusv1connect.NewLogServiceHandler(logService{a}, options))
	add(nimbusv1connect.NewShellServiceHandler(shellService{a}, options))
	add(nimbusv1connect.NewRegistryServiceHandler(registryService{a}, options))
	add(nimbusv1connect.NewTelemetryServiceHandler(telemetryService{a}, options))
	return all
}

// Where the cache's clients knock.
const (
	cacheTwirp     = "/twirp/github.actions.results.api.v1.CacheService/"
	cacheArtifacts = "/twirp/github.actions.results.api.v1.ArtifactService/"
	cacheV1        = "/_apis/artifactcache/"
	cacheBlobs     = "/_cache/"
)

// handlers are what is plain HTTP, by the patterns of the table of routes.
func (a *api) handlers() map[string]http.Handler {
	webhook := a.Webhook
	if webhook == nil {
		webhook = http.HandlerFunc(noWebhook)
	}
	var cache, keyed http.Handler = http.HandlerFunc(noCache), http.HandlerFunc(noCache)
	if a.Cache != nil {
		cache, keyed = a.Cache, a.keyed(a.Cache)
	}
	var images http.Handler = http.HandlerFunc(noRegistry)
	if a.Registry != nil {
		images = a.Registry(a.stranger)
	}
	return map[string]http.Handler{
		"/v2/": images,

		cacheTwirp:     cache,
		cacheArtifacts: cache,
		cacheV1:        cache,
		cacheBlobs:     cache,
		keyedPath:      keyed,

		"GET /api/v1/jobs/stream":                        a.plain(a.whileAllowed(a.streamJobs)),
		"GET /api/v1/logs/export":                        a.plain(a.exportLogs),
		"POST /api/v1/logs/import":                       a.plain(a.importLogs),
		"GET /api/v1/logs/stream":                        a.plain(a.whileAllowed(a.streamLogs)),
		"GET /api/v1/jobs/{id}/log":                      a.plain(a.readLog),
		"GET /api/v1/jobs/{id}/log/outline":              a.plain(a.outlineLog),
		"GET /api/v1/jobs/{id}/trace":                    a.plain(a.readTrace),
		"GET /api/v1/jobs/{id}/log/stream":               a.plain(a.whileAllowed(a.streamLog)),
		"GET /api/v1/jobs/{id}/shells/{shell}/recording": a.plain(a.readRecording),

		"PUT /api/v1/workspaces":      a.plain(a.putWorkspace),
		"GET /api/v1/workspaces/{id}": a.plain(a.getWorkspace),
		"GET /api/v1/me":              a.plain(a.me),
		"POST /api/v1/logins":         a.plain(a.createLogin),
		"POST /api/v1/logout":         a.plain(a.logout),
		"GET /metrics":                a.plain(a.metrics),
		"GET /debug/pprof/":           a.plain(a.profile),
		"GET /login":                  a.counted(a.stranger, http.HandlerFunc(a.login)),
		"GET /healthz":                http.HandlerFunc(alive),
		"GET /readyz":                 http.HandlerFunc(a.ready),
		"/webhooks/github":            a.watched("/webhooks/github", a.counted(a.received, webhook)),
		"/":                           pages(a.Pages),
	}
}

// api is the handlers' common ground.
type api struct {
	Config

	followed  *followedLogs
	jobs      *lookups[nimbus.Job] // Jobs, for them
	outlines  outlines
	importing sync.Map // orgs whose logs are being imported here
}

// NewServer wraps a handler into a server with the bounds that fit it: HTTP/2
// also without TLS, time to read headers but not to stream.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: h, Protocols: &protocols, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}
