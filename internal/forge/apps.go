package forge

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
)

// lookAgainAfter is how often GitHub is asked which App an unknown
// installation is of.
const lookAgainAfter = time.Minute

// Apps are the GitHub Apps that are connected. A call goes through the App
// whose installation the job came from. It is safe for concurrent use, and
// Set may change the Apps while calls are under way.
type Apps struct {
	clock nimbus.Clock
	log   *slog.Logger

	mu       sync.Mutex
	apps     map[int64]*App     // by id
	secrets  map[int64][][]byte // of the webhook of each
	owners   map[int64]int64    // installation -> App
	lookedAt time.Time
	unsure   bool // not all could be asked then
	places   *Places
}

// NewApps returns a set without Apps.
func NewApps(clock nimbus.Clock, log *slog.Logger) *Apps {
	return &Apps{clock: clock, log: log, apps: map[int64]*App{}, owners: map[int64]int64{}}
}

// Set replaces the Apps and the webhook secrets that are taken of each.
func (s *Apps) Set(apps map[int64]*App, secrets map[int64][][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = maps.Clone(secrets)
	for _, app := range apps {
		app.SetPlaces(s.places)
	}
	if maps.Equal(s.apps, apps) { // what is known of their installations stays true
		return
	}
	s.apps = maps.Clone(apps)
	s.owners, s.lookedAt, s.unsure = map[int64]int64{}, time.Time{}, false
}

// Secrets are those that webhooks may be signed with now; none while no App is
// connected.
func (s *Apps) Secrets() (all [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.secrets)) {
		all = append(all, s.secrets[id]...)
	}
	return all
}

// MayTell tells whether one of the secrets that a webhook is signed with is of
// the App whose installation it tells of: whoever knows the secret of another App
// is not to speak for it. What is not known yet is believed; nothing can be done
// for an installation that no App has.
func (s *Apps) MayTell(installation int64, secrets [][]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, known := s.owners[installation]
	if !known || s.only() != nil {
		return true
	}
	return slices.ContainsFunc(secrets, func(secret []byte) bool {
		return slices.ContainsFunc(s.secrets[owner], func(own []byte) bool { return bytes.Equal(own, secret) })
	})
}

// Learn asks whose the installations are where there are several Apps, and that
// is not known yet.
func (s *Apps) Learn(ctx context.Context) {
	s.mu.Lock()
	need := len(s.apps) > 1 && len(s.owners) == 0
	s.mu.Unlock()
	if !need {
		return
	}
	if _, look := s.known(0); look {
		s.look(ctx)
	}
}

// All returns the Apps by their ids, in order.
func (s *Apps) All() []*App {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.apps), func(a, b *App) int { return cmp.Compare(a.id, b.id) })
}

// ID is the App's id at GitHub.
func (a *App) ID() int64 { return a.id }

// of is the App through which a job came.
func (s *Apps) of(ctx context.Context, installation int64) (*App, error) {
	app, look := s.known(installation)
	if app == nil && look {
		s.look(ctx)
		app, _ = s.known(installation)
	}
	if app == nil && s.isUnsure() {
		e := nimbus.Errorf(nimbus.CodeUnavailable, "GitHub could not be asked whose installation %d is", installation)
		e.RetryAfter = lookAgainAfter
		return nil, e
	}
	if app == nil {
		return nil, nimbus.Errorf(nimbus.CodeForbidden, "no connected GitHub App has the installation %d", installation).
			WithHint("nimbus github installations shows who has installed which App")
	}
	return app, nil
}

// known is the App of an installation; look tells whether GitHub may be asked.
func (s *Apps) known(installation int64) (app *App, look bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if only := s.only(); only != nil {
		return only, false
	}
	if id, ok := s.owners[installation]; ok {
		return s.apps[id], false
	}
	now := s.clock.Now()
	if len(s.apps) == 0 || now.Sub(s.lookedAt) < lookAgainAfter {
		return nil, false
	}
	s.lookedAt = now
	return nil, true
}

// only is the App where there is one, and nothing to tell apart. s.mu is held.
func (s *Apps) only() *App {
	if len(s.apps) != 1 {
		return nil
	}
	for _, only := range s.apps {
		return only
	}
	return nil
}

func (s *Apps) isUnsure() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsure
}

// look learns whose the installations are.
func (s *Apps) look(ctx context.Context) {
	unsure := false
	for _, app := range s.All() {
		installations, err := app.Installations(ctx)
		if err != nil {
			s.log.WarnContext(ctx, "the App's installations are not known", "app", app.id, "error", err)
			unsure = true
			continue
		}
		s.mu.Lock()
		for _, i := range installations {
			if s.apps[app.id] == app {
				s.owners[i.ID] = app.id
			}
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsure = unsure
}

// CreateRunner is App.CreateRunner of the job's App.
func (s *Apps) CreateRunner(ctx context.Context, job nimbus.GitHubJob, name string, labels []string) (nimbus.Runner, string, error) {
	app, err := s.of(ctx, job.InstallationID)
	if err != nil {
		return nimbus.Runner{}, "", err
	}
	return app.CreateRunner(ctx, job, name, labels)
}

// JobStatus is App.JobStatus of the job's App.
func (s *Apps) JobStatus(ctx context.Context, job nimbus.GitHubJob) (nimbus.ForgeEvent, error) {
	app, err := s.of(ctx, job.InstallationID)
	if err != nil {
		return nimbus.ForgeEvent{}, err
	}
	return app.JobStatus(ctx, job)
}

// RemoveRunner is App.RemoveRunner of the job's App.
func (s *Apps) RemoveRunner(ctx context.Context, job nimbus.GitHubJob, r nimbus.Runner) error {
	app, err := s.of(ctx, job.InstallationID)
	if err != nil {
		return err
	}
	return app.RemoveRunner(ctx, job, r)
}

// RunnerWait is App.RunnerWait of the job's App; 0 where that is not known.
func (s *Apps) RunnerWait(job nimbus.GitHubJob) time.Duration {
	if app := s.cached(job.InstallationID); app != nil {
		return app.RunnerWait(job)
	}
	return 0
}

// cached is the App of an installation where that is known without asking; else
// nil.
func (s *Apps) cached(installation int64) *App {
	s.mu.Lock()
	defer s.mu.Unlock()
	if only := s.only(); only != nil {
		return only
	}
	return s.apps[s.owners[installation]]
}

// Runs is App.Runs of the repository's App.
func (s *Apps) Runs(ctx context.Context, repo nimbus.ForgeRepo, status nimbus.ForgeStatus, page int) (runs []nimbus.ForgeRun, more bool, err error) {
	app, err := s.of(ctx, repo.InstallationID)
	if err != nil {
		return nil, false, err
	}
	return app.Runs(ctx, repo, status, page)
}

// RunJobs is App.RunJobs of the repository's App.
func (s *Apps) RunJobs(ctx context.Context, repo nimbus.ForgeRepo, runID int64, page int) (jobs []nimbus.ForgeEvent, more bool, err error) {
	app, err := s.of(ctx, repo.InstallationID)
	if err != nil {
		return nil, false, err
	}
	return app.RunJobs(ctx, repo, runID, page)
}

// Runners is App.Runners of the repository's App.
func (s *Apps) Runners(ctx context.Context, repo nimbus.ForgeRepo, page int) (runners []nimbus.ForgeRunner, more bool, err error) {
	app, err := s.of(ctx, repo.InstallationID)
	if err != nil {
		return nil, false, err
	}
	return app.Runners(ctx, repo, page)
}
