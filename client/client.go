// Package client calls a Nimbus server: submit jobs, look at them, follow their
// logs. It is what the command line is made of.
//
// Errors that the server meant are *nimbus.Error with its code, message and
// hint; a server that could not be asked gives nimbus.CodeUnavailable, with
// ErrUnreachable in the error's chain.
package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// callTimeout bounds a call that is answered from the server's books alone.
const callTimeout = 30 * time.Second

// maxAnswerBytes bounds what is read of an answer; a page of jobs with long
// commands is the largest.
const maxAnswerBytes = 64 << 20

// ErrUnreachable is in the chain of errors that no server sent: it could not be
// asked, or its answer broke off.
var ErrUnreachable = wire.ErrUnreachable

// Config says which server to call, and as whom.
type Config struct {
	// Server is its address, "https://nimbus.example.com". Plain http is
	// refused beyond this machine. Required.
	Server string
	// Token is sent with each call; "" for none.
	Token string
	// Org is the org to act in, by its id or name; "" means the caller's own,
	// of several the one joined first.
	Org string
	// TLS says whom to trust and how to be known; nil means the system's trust.
	TLS *tls.Config
	// Transport makes the requests; nil means one of its own.
	Transport http.RoundTripper
	// Patience is how long FollowLog goes on trying to reach a server that
	// went away. Default 2 min.
	Patience time.Duration
}

// Client calls one server. Its methods may be called concurrently.
type Client struct {
	base     *url.URL
	caller   wire.Caller
	http     *http.Client
	patience time.Duration
	jobs     nimbusv1connect.JobServiceClient
	hosts    nimbusv1connect.HostServiceClient
	github   nimbusv1connect.GitHubServiceClient
	runners  nimbusv1connect.GitHubRunnerServiceClient
	orgs     nimbusv1connect.OrgServiceClient
	users    nimbusv1connect.UserServiceClient
	members  nimbusv1connect.MemberServiceClient
	accounts nimbusv1connect.ServiceAccountServiceClient
	tokens   nimbusv1connect.TokenServiceClient
	queue    nimbusv1connect.QueueServiceClient
	rates    nimbusv1connect.RateServiceClient
	orgCache nimbusv1connect.OrgCacheServiceClient

	telemetry nimbusv1connect.TelemetryServiceClient
	caches    nimbusv1connect.CacheServiceClient
	reruns    nimbusv1connect.RerunServiceClient
	reports   nimbusv1connect.ReportServiceClient
	audit     nimbusv1connect.AuditServiceClient
	shells    nimbusv1connect.ShellServiceClient
	logs      nimbusv1connect.LogServiceClient
	registry  nimbusv1connect.RegistryServiceClient
}

// New checks the configuration; it makes no call.
func New(cfg Config) (*Client, error) {
	base, err := wire.CheckServer(cfg.Server)
	if err != nil {
		return nil, err
	}
	transport := cfg.Transport
	if transport == nil {
		transport = newTransport(cfg.TLS)
	}
	transport = reaching{base, transport}
	c := &Client{
		base:     base,
		caller:   wire.Caller{Token: func() string { return cfg.Token }, Org: cfg.Org},
		patience: cmp.Or(cfg.Patience, 2*time.Minute),
		// A redirect could carry the token to another server.
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	opts := []connect.ClientOption{connect.WithInterceptors(c.caller), connect.WithReadMaxBytes(maxAnswerBytes)}
	c.jobs = nimbusv1connect.NewJobServiceClient(c.http, base.String(), opts...)
	c.queue = nimbusv1connect.NewQueueServiceClient(c.http, base.String(), opts...)
	c.caches = nimbusv1connect.NewCacheServiceClient(c.http, base.String(), opts...)
	c.rates = nimbusv1connect.NewRateServiceClient(c.http, base.String(), opts...)
	c.registry = nimbusv1connect.NewRegistryServiceClient(c.http, base.String(), opts...)
	c.telemetry = nimbusv1connect.NewTelemetryServiceClient(c.http, base.String(), opts...)
	c.orgCache = nimbusv1connect.NewOrgCacheServiceClient(c.http, base.String(), opts...)
	c.reruns = nimbusv1connect.NewRerunServiceClient(c.http, base.String(), opts...)
	c.reports = nimbusv1connect.NewReportServiceClient(c.http, base.String(), opts...)
	c.hosts = nimbusv1connect.NewHostServiceClient(c.http, base.String(), opts...)
	c.github = nimbusv1connect.NewGitHubServiceClient(c.http, base.String(), opts...)
	c.runners = nimbusv1connect.NewGitHubRunnerServiceClient(c.http, base.String(), opts...)
	c.orgs = nimbusv1connect.NewOrgServiceClient(c.http, base.String(), opts...)
	c.users = nimbusv1connect.NewUserServiceClient(c.http, base.String(), opts...)
	c.members = nimbusv1connect.NewMemberServiceClient(c.http, base.String(), opts...)
	c.accounts = nimbusv1connect.NewServiceAccountServiceClient(c.http, base.String(), opts...)
	c.tokens = nimbusv1connect.NewTokenServiceClient(c.http, base.String(), opts...)
	c.shells = nimbusv1connect.NewShellServiceClient(c.http, base.String(), opts...)
	c.logs = nimbusv1connect.NewLogServiceClient(c.http, base.String(), opts...)
	c.audit = nimbusv1connect.NewAuditServiceClient(c.http, base.String(), opts...)
	return c, nil
}

func newTransport(encryption *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:       encryption,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: callTimeout,
		IdleConnTimeout:       90 * time.Second,
		ForceAttemptHTTP2:     true,
	}
}

// Server is the address that is called.
func (c *Client) Server() string { return c.base.String() }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Submission is a native job to be run.
type Submission struct {
	Name  string       // what a person calls it; "" means the command
	Class nimbus.Class // zero fields mean the defaults
	Spec  nimbus.Spec
	// Labels are what a workflow would write in runs-on. Where Class says
	// otherwise, it counts.
	Labels   []string
	Metadata map[string]string // kept with the job, besides that of Labels
	// Priority is among the waiting jobs of the org, -10 to 10; higher is sooner.
	Priority int
	// IdempotencyKey makes repeating a submission safe: the same key gives the
	// same job. "" for none.
	IdempotencyKey string
}

// Submit hands in a job. Codes: invalid, forbidden, rate_limited, conflict for
// an idempotency key that was used for another one.
func (c *Client) Submit(ctx context.Context, s Submission) (nimbus.Job, error) {
	answer, err := call(ctx, c.jobs.SubmitJob, &nimbusv1.SubmitJobRequest{
		Name: s.Name, Class: wire.Class(s.Class), Spec: wire.Spec(s.Spec), IdempotencyKey: s.IdempotencyKey,
		Labels: s.Labels, Metadata: s.Metadata, Priority: int32(s.Priority),
	})
	return wire.ToJob(answer.GetJob()), err
}

// Job returns one job. Codes: not_found.
func (c *Client) Job(ctx context.Context, jobID string) (nimbus.Job, error) {
	answer, err := call(ctx, c.jobs.GetJob, &nimbusv1.GetJobRequest{JobId: jobID})
	return wire.ToJob(answer.GetJob()), err
}

// JobFilter says which jobs to list: those that pass all that is set.
type JobFilter struct {
	States    []nimbus.State
	Result    nimbus.Result     // of finished jobs
	Labels    []string          // all of them, compared without case
	Metadata  map[string]string // all of it; an empty value stands for any
	Repo      string            // "owner/name"
	Since     time.Time         // admitted then or later
	Until     time.Time         // admitted before
	PageSize  int               // at most 200; 0 means 50
	PageToken string            // of the page before; "" for the newest
}

// JobPage is one page of jobs, newest first.
type JobPage struct {
	Jobs          []nimbus.Job
	NextPageToken string // "" on the last page
}

// Jobs lists jobs, newest first.
func (c *Client) Jobs(ctx context.Context, f JobFilter) (JobPage, error) {
	request := &nimbusv1.ListJobsRequest{PageSize: int32(min(max(f.PageSize, 0), 200)), PageToken: f.PageToken,
		Result: wire.Result(f.Result), Labels: f.Labels, Metadata: f.Metadata, Repo: f.Repo, Since: wire.Time(f.Since), Until: wire.Time(f.Until)}
	for _, s := range f.States {
		request.States = append(request.States, wire.State(s))
	}
	answer, err := call(ctx, c.jobs.ListJobs, request)
	page := JobPage{NextPageToken: answer.GetNextPageToken()}
	for _, j := range answer.GetJobs() {
		page.Jobs = append(page.Jobs, wire.ToJob(j))
	}
	return page, err
}

// Events returns a job's history in order. Codes: not_found.
func (c *Client) Events(ctx context.Context, jobID string) ([]nimbus.JobEvent, error) {
	var events []nimbus.JobEvent
	for request := (&nimbusv1.ListJobEventsRequest{JobId: jobID}); ; {
		answer, err := call(ctx, c.jobs.ListJobEvents, request)
		if err != nil {
			return nil, err
		}
		for _, e := range answer.GetEvents() {
			event := wire.ToEvent(e)
			event.JobID = jobID
			events = append(events, event)
		}
		if request.PageToken = answer.GetNextPageToken(); request.PageToken == "" {
			return events, nil
		}
	}
}

// Cancel stops a job wherever it is. Cancelling a finished one has no effect
// and is no error. Codes: not_found.
func (c *Client) Cancel(ctx context.Context, jobID string) (nimbus.Job, error) {
	answer, err := call(ctx, c.jobs.CancelJob, &nimbusv1.CancelJobRequest{JobId: jobID})
	return wire.ToJob(answer.GetJob()), err
}

// Hosts lists the machines that run jobs, by name. Codes: forbidden.
func (c *Client) Hosts(ctx context.Context) (hosts []nimbus.Host, err error) {
	for request := (&nimbusv1.ListHostsRequest{PageSize: 200}); ; {
		answer, err := call(ctx, c.hosts.ListHosts, request)
		if err != nil {
			return nil, err
		}
		for _, h := range answer.GetHosts() {
			hosts = append(hosts, wire.ToHost(h))
		}
		if request.PageToken = answer.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	slices.SortFunc(hosts, func(a, b nimbus.Host) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return hosts, nil
}

// CreateJoinToken makes a token that joins one host, once. validFor is at most
// 24 h; 0 means 1 h. Codes: forbidden.
func (c *Client) CreateJoinToken(ctx context.Context, validFor time.Duration) (token string, expires time.Time, err error) {
	answer, err := call(ctx, c.hosts.CreateJoinToken, &nimbusv1.CreateJoinTokenRequest{ValidFor: durationpb.New(validFor)})
	if err != nil {
		return "", time.Time{}, err
	}
	return answer.GetToken(), answer.GetExpiresAt().AsTime(), nil
}

// CordonHost keeps a host from new jobs, or no longer. What runs on it goes on.
// Codes: forbidden, not_found.
func (c *Client) CordonHost(ctx context.Context, hostID string, cordoned bool) error {
	_, err := call(ctx, c.hosts.CordonHost, &nimbusv1.CordonHostRequest{HostId: hostID, Cordoned: cordoned})
	return err
}

// RemoveHost takes a host away for good. One that runs jobs is refused unless
// force is set; then their leases run out. Codes: forbidden, not_found, conflict.
func (c *Client) RemoveHost(ctx context.Context, hostID string, force bool) error {
	_, err := call(ctx, c.hosts.RemoveHost, &nimbusv1.RemoveHostRequest{HostId: hostID, Force: force})
	return err
}

// call makes one unary call within callTimeout. The answer of a failed one is
// nil, whose getters give zero values.
func call[Request, Answer any](
	ctx context.Context,
	method func(context.Context, *connect.Request[Request]) (*connect.Response[Answer], error),
	request *Request,
) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := method(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}
