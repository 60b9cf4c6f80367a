package forge

import (
	"cmp"
	"context"
	"crypto/rsa"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// Bounds of calling out.
const (
	defaultBaseURL = "https://api.github.com"
	// defaultCallTimeout covers a whole call of App, with the token that it
	// may have to fetch first.
	defaultCallTimeout = 15 * time.Second
	// maxInstallations is how many clients are kept; beyond it one is dropped
	// and made anew when it is needed, at the cost of one more token.
	maxInstallations = 4096

	userAgent          = "nimbus"
	defaultRunnerGroup = 1 // "Default"
	workFolder         = "_work"
)

// AppConfig is what NewApp needs.
type AppConfig struct {
	AppID      int64             // required
	PrivateKey []byte            // PEM, as GitHub gives it out. Required
	BaseURL    string            // default https://api.github.com
	Timeout    time.Duration     // of one call, default 15 s
	Transport  http.RoundTripper // default a pool of its own
	Clock      nimbus.Clock      // default the system's
	Replicas   Replicas          // that use the App; default this one alone
}

// App calls GitHub as a GitHub App, through the installation that each job
// came from. It is safe for concurrent use. Its errors are *nimbus.Error:
// forbidden, not_found, conflict and invalid will stay so; unavailable may be
// tried again after ErrorRetryAfter.
type App struct {
	id      int64
	key     *rsa.PrivateKey
	baseURL string
	timeout time.Duration
	shared  http.RoundTripper
	clock   nimbus.Clock
	limits  *limiter
	answers *answers
	own     *github.Client // as the App itself

	service actionsService
	places  atomic.Pointer[Places] // nil: each runner at its job's repository

	mu      sync.Mutex
	clients map[int64]*github.Client // by installation
}

// NewApp checks the configuration; it makes no call.
func NewApp(cfg AppConfig) (*App, error) {
	if cfg.AppID <= 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the GitHub App has no id")
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM(cfg.PrivateKey)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the GitHub App's private key is no RSA key in PEM: %w", err).
			WithHint("download a new one from the App's settings page")
	}
	cfg.BaseURL = APIURL(cfg.BaseURL)
	if err := checkAPI(cfg.BaseURL); err != nil {
		return nil, err
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultCallTimeout
	}
	long := cfg.Transport
	if cfg.Transport == nil {
		cfg.Transport, long = newTransport(), longTransport()
	}
	if cfg.Clock == nil {
		cfg.Clock = nimbus.SystemClock{}
	}
	a := &App{
		id:      cfg.AppID,
		key:     key,
		baseURL: cfg.BaseURL,
		timeout: cfg.Timeout,
		shared:  boundedTransport{cfg.Transport},
		clock:   cfg.Clock,
		limits:  newLimiter(cfg.Clock, cfg.Replicas),
		answers: newAnswers(),
		clients: map[int64]*github.Client{},
	}
	a.service = actionsService{app: a, long: boundedTransport{long}, open: map[serviceKey]serviceConnection{}}
	if a.own, err = a.clientOver(a.appTransport()); err != nil {
		return nil, fmt.Errorf("make the App's client: %w", err)
	}
	return a, nil
}

// CreateRunner registers a runner for one job and returns its just-in-time
// configuration, a secret that is good for one start. The runner belongs to
// the job's repository unless SetPlaces says otherwise; GitHub can't bind it to
// the job. A name that is taken is CodeConflict; whatever else GitHub refuses
// for good is CodeForbidden.
func (a *App) CreateRunner(ctx context.Context, job nimbus.GitHubJob, name string, labels []string) (nimbus.Runner, string, error) {
	set, org := a.place(job, labels)
	var runner nimbus.Runner
	var jit string
	var err error
	if set != nil {
		runner, jit, err = a.scaleSetRunner(ctx, set, name)
	} else {
		runner, jit, err = a.jitRunner(ctx, org, job, name, labels)
	}
	switch nimbus.ErrorCode(err) {
	case "":
	case nimbus.CodeNotFound, nimbus.CodeInvalid:
		// No access, or settings of the owner's that refuse runners: trying
		// again won't help, the reason will.
		return nimbus.Runner{}, "", nimbus.Errorf(nimbus.CodeForbidden, "%w", err)
	default:
		return nimbus.Runner{}, "", err
	}
	if runner.ID == 0 || jit == "" {
		return nimbus.Runner{}, "", nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered without a runner and its configuration")
	}
	return runner, jit, nil
}

// jitRunner registers a runner with an organisation, or at the job's repository.
func (a *App) jitRunner(ctx context.Context, at nimbus.RunnerPlace, job nimbus.GitHubJob, name string, labels []string) (nimbus.Runner, string, error) {
	ask := github.CreateJITConfigRequest{Name: name, RunnerGroupID: defaultRunnerGroup, WorkFolder: new(workFolder), Labels: labels}
	var config *github.JITRunnerConfig
	err := a.call(withUrgency(ctx, urgent), job, "create a runner", func(ctx context.Context, c *github.Client) (err error) {
		if at.Organization != "" {
			ask.RunnerGroupID = at.GroupID
			config, _, err = c.Actions.CreateOrgJITConfig(ctx, at.Organization, ask)
			return err
		}
		config, _, err = c.Actions.CreateRepoJITConfig(ctx, job.Owner, job.Repo, ask)
		return err
	})
	return nimbus.Runner{ID: config.GetRunner().GetID(), Name: name, Org: at.Organization}, config.GetEncodedJITConfig(), err
}

// JobStatus reads what GitHub says of a job now. The answer may lag behind its
// own webhooks: "not queued" of one read is a hint, no proof.
func (a *App) JobStatus(ctx context.Context, job nimbus.GitHubJob) (nimbus.ForgeEvent, error) {
	var fields jobFields
	err := a.call(ctx, job, "read a job", func(ctx context.Context, c *github.Client) error {
		req, err := c.NewRequest(ctx, http.MethodGet, fmt.Sprintf("repos/%s/%s/actions/jobs/%d", job.Owner, job.Repo, job.JobID), nil)
		if err != nil {
			return err
		}
		fields = jobFields{}
		_, err = c.Do(req, &fields)
		return err
	})
	if err != nil {
		return nimbus.ForgeEvent{}, err
	}
	ev, err := fields.event(job.Owner, job.Repo)
	if err != nil {
		return nimbus.ForgeEvent{}, nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered with no job: %w", err)
	}
	if ev == nil || ev.Job.JobID != job.JobID {
		return nimbus.ForgeEvent{}, nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered with a status that is not known or another job")
	}
	ev.Job.InstallationID = job.InstallationID
	ev.Demand = ev.Status == nimbus.ForgeQueued
	return *ev, nil
}

// RemoveRunner deregisters a runner. One that is gone is fine; one that runs a
// job is CodeConflict. A runner without an ID is looked up by its name: its
// minting may have been cut off before the ID was stored.
func (a *App) RemoveRunner(ctx context.Context, job nimbus.GitHubJob, r nimbus.Runner) error {
	ask := func(do func(context.Context, *github.Client) error) error {
		return a.call(ctx, job, "remove a runner", do)
	}
	if r.Org != "" { // whichever of its repositories the job is from
		ask = func(do func(context.Context, *github.Client) error) error {
			return a.callAs(ctx, job.InstallationID, "remove a runner", do)
		}
	}
	err := ask(func(ctx context.Context, c *github.Client) error {
		id := r.ID
		if id == 0 {
			var err error
			if id, err = findRunner(ctx, c, job, r); err != nil || id == 0 {
				return err
			}
		}
		if r.Org != "" {
			_, err := c.Actions.RemoveOrganizationRunner(ctx, r.Org, id)
			return err
		}
		_, err := c.Actions.RemoveRunner(ctx, job.Owner, job.Repo, id)
		return err
	})
	switch nimbus.ErrorCode(err) {
	case nimbus.CodeNotFound:
		return nil
	case nimbus.CodeInvalid: // 422 is GitHub's answer for one that is busy
		return nimbus.Errorf(nimbus.CodeConflict, "%w", err)
	}
	return err
}

// findRunner returns the id of a runner by its name, 0 when there is none.
func findRunner(ctx context.Context, c *github.Client, job nimbus.GitHubJob, r nimbus.Runner) (int64, error) {
	runners, _, err := listRunners(ctx, c, nimbus.ForgeRepo{Owner: cmp.Or(r.Org, job.Owner), Name: repoUnless(r.Org, job.Repo)},
		&github.ListRunnersOptions{Name: &r.Name})
	if err != nil {
		return 0, err
	}
	for _, found := range runners.Runners {
		if found.GetName() == r.Name {
			return found.GetID(), nil
		}
	}
	return 0, nil
}

func repoUnless(org, repo string) string {
	if org != "" {
		return ""
	}
	return repo
}

// listRunners lists those of a repository, or of an organisation where the
// repository has no name.
func listRunners(ctx context.Context, c *github.Client, at nimbus.ForgeRepo, opts *github.ListRunnersOptions) (*github.Runners, *github.Response, error) {
	if at.Name == "" {
		return c.Actions.ListOrganizationRunners(ctx, at.Owner, opts)
	}
	return c.Actions.ListRunners(ctx, at.Owner, at.Name, opts)
}

// call runs fn with the client of the job's installation and translates its
// error. A token that GitHub no longer takes (revoked, or our clock is off) is
// fetched anew once.
func (a *App) call(ctx context.Context, job nimbus.GitHubJob, what string, fn func(context.Context, *github.Client) error) error {
	if err := checkRepository(job.Owner, job.Repo); err != nil {
		return err
	}
	if job.InstallationID <= 0 {
		return nimbus.Errorf(nimbus.CodeForbidden, "%s: the job came without an installation of the GitHub App", what).
			WithHint("send webhooks from the App, not from a repository or organization hook")
	}
	return a.callAs(ctx, job.InstallationID, what, fn)
}

// callAs is call for an installation, without a repository.
func (a *App) callAs(ctx context.Context, installation int64, what string, fn func(context.Context, *github.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	for retried := false; ; retried = true {
		client, err := a.client(installation)
		if err != nil {
			return err
		}
		err = fn(ctx, client)
		if err == nil {
			return nil
		}
		if tokenRefused(err) && !retried {
			a.forget(installation, client)
			continue
		}
		return translate(what, err)
	}
}

// client returns the client of an installation, which holds its token.
func (a *App) client(installation int64) (*github.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.clients[installation]; ok {
		return c, nil
	}
	c, err := a.clientOver(&installationAuth{
		url:   fmt.Sprintf("%s/app/installations/%d/access_tokens", a.baseURL, installation),
		app:   a.appTransport(),
		next:  &conditionalTransport{a.answers, installation, &limitedTransport{a.limits, installation, a.shared}},
		clock: a.clock,
	})
	if err != nil {
		return nil, fmt.Errorf("installation %d: %w", installation, err)
	}
	if len(a.clients) >= maxInstallations {
		for other := range a.clients { // any one
			delete(a.clients, other)
			break
		}
	}
	a.clients[installation] = c
	return c, nil
}

// forget drops a client with its token, unless it was replaced already.
func (a *App) forget(installation int64, c *github.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clients[installation] == c {
		delete(a.clients, installation)
	}
}

// appTransport makes calls as the App itself, which the App itself pays for.
func (a *App) appTransport() http.RoundTripper {
	return &appAuth{id: a.id, key: a.key, clock: a.clock, next: &limitedTransport{a.limits, 0, a.shared}}
}

// RunnerWait is how long it takes until a runner for the job could be
// registered, as far as the budget is concerned: 0 when it may be tried.
func (a *App) RunnerWait(job nimbus.GitHubJob) time.Duration {
	return a.limits.wait(cost{payer: job.InstallationID, bucket: bucketRunners, points: 5, runner: true}, urgent)
}
