package demand

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times and bounds of polling.
const (
	pollEvery = 30 * time.Second
	// repoEvery is how often a repository is looked at.
	repoEvery = 2 * time.Minute
	// seenWithin is how long after its last job a repository is looked at, and
	// mostRepos how many are.
	seenWithin = 3 * 24 * time.Hour
	mostRepos  = 1000
	// youngRun is how long a run is left to its webhooks.
	youngRun = time.Minute
	// runEvery is how often a run is looked into that says that nothing has
	// changed, in case it is wrong.
	runEvery = 10 * time.Minute
	mostRuns = 50_000 // remembered
	// overWithin is for how long a run that is over is looked for.
	overWithin = 12 * time.Hour
	// mostPages bounds what is read of one list; GitHub's matrix has 256 jobs.
	mostPages = 3

	// callsPerHour is what polling may spend of an installation's budget, of
	// which callsAtOnce may have been saved up.
	callsPerHour = 1000
	callsAtOnce  = 300
)

// lists are those of a repository's runs, the most needed first. In each is
// looked while more than its reserve is left to spend. Of the runs that are over
// only the latest are looked at: a job may have begun and ended without a word.
var lists = []struct {
	status  nimbus.ForgeStatus
	pages   int
	reserve float64
}{
	{nimbus.ForgeQueued, mostPages, 0},
	{nimbus.ForgeInProgress, mostPages, 0},
	{nimbus.ForgeCompleted, mostPages, callsAtOnce / 4},
}

// Lister is what polling needs of GitHub.
type Lister interface {
	Runs(ctx context.Context, repo nimbus.ForgeRepo, status nimbus.ForgeStatus, page int) (runs []nimbus.ForgeRun, more bool, err error)
	RunJobs(ctx context.Context, repo nimbus.ForgeRepo, runID int64, page int) (jobs []nimbus.ForgeEvent, more bool, err error)
}

// Repositories tells which had jobs of ours.
type Repositories interface {
	Now(ctx context.Context) (time.Time, error)
	// SeenRepositories had a job within the given time, the latest first.
	SeenRepositories(ctx context.Context, within time.Duration, most int) ([]nimbus.ForgeRepo, error)
}

// Observer takes what GitHub says of a job, as if an event had told it.
type Observer interface {
	Observe(ctx context.Context, ev *nimbus.ForgeEvent) error
}

// Poller looks for jobs in the lists of repositories that had some before.
type Poller struct {
	GitHub Lister
	Store  Repositories
	Jobs   Observer
	Log    *slog.Logger

	polled map[nimbus.ForgeRepo]time.Time
	runs   map[int64]lookedAt
	purses map[int64]*purse // by installation
}

// lookedAt is when a run was looked into, and how it was.
type lookedAt struct{ at, updated time.Time }

// purse is what polling may spend of an installation's budget.
type purse struct {
	calls float64
	at    time.Time
}

// take is false when no more than reserve is left.
func (p *purse) take(now time.Time, reserve float64) bool {
	p.calls = min(p.calls+callsPerHour*now.Sub(p.at).Hours(), callsAtOnce)
	p.at = now
	if p.calls < reserve+1 {
		return false
	}
	p.calls--
	return true
}

// Run polls until ctx ends.
func (p *Poller) Run(ctx context.Context) {
	every(ctx, p.Log, "looking for jobs that GitHub did not tell of", pollEvery, p.Round)
}

// Round looks once at the repositories whose turn it is. It is not to be called
// twice at once.
func (p *Poller) Round(ctx context.Context) error {
	if p.polled == nil {
		p.polled, p.runs, p.purses = map[nimbus.ForgeRepo]time.Time{}, map[int64]lookedAt{}, map[int64]*purse{}
	}
	now, err := p.Store.Now(ctx)
	if err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	repos, err := p.Store.SeenRepositories(ctx, seenWithin, mostRepos)
	if err != nil {
		return fmt.Errorf("read which repositories had jobs: %w", err)
	}
	p.forget(repos, now)
	slices.SortStableFunc(repos, func(a, b nimbus.ForgeRepo) int { return cmp.Compare(p.polled[a].UnixMicro(), p.polled[b].UnixMicro()) })
	for _, repo := range repos {
		if now.Sub(p.polled[repo]) < repoEvery {
			break
		}
		switch err := p.look(ctx, repo, now); nimbus.ErrorCode(err) {
		case "":
			p.polled[repo] = now
		case nimbus.CodeForbidden, nimbus.CodeNotFound: // it is gone, or no longer ours to see
			p.polled[repo] = now.Add(runEvery)
			p.Log.InfoContext(ctx, "a repository can't be looked at", "repo", repo.Owner+"/"+repo.Name, "error", err)
		default:
			return fmt.Errorf("look at %s/%s: %w", repo.Owner, repo.Name, err)
		}
	}
	return nil
}

// look looks at the runs of a repository. It may stop early, when there is
// nothing left to spend, and goes on there the next time.
func (p *Poller) look(ctx context.Context, repo nimbus.ForgeRepo, now time.Time) error {
	seen := map[int64]bool{}
	for _, list := range lists {
		over := list.status == nimbus.ForgeCompleted
		for page, more := 1, true; more && page <= list.pages; page++ {
			if !p.spend(repo, now, list.reserve) {
				return nil
			}
			var runs []nimbus.ForgeRun
			var err error
			if runs, more, err = p.GitHub.Runs(ctx, repo, list.status, page); err != nil {
				return err
			}
			for _, run := range slices.Backward(runs) { // who waits longest first
				if seen[run.ID] || now.Sub(run.StartedAt) < youngRun || !p.changed(run, over, now) {
					continue
				}
				seen[run.ID] = true
				done, err := p.lookInto(ctx, repo, run, list.reserve, now)
				if err != nil || !done {
					return err
				}
			}
		}
	}
	return nil
}

// lookInto takes what GitHub says of the jobs of a run; done is false when there
// was nothing left to spend.
func (p *Poller) lookInto(ctx context.Context, repo nimbus.ForgeRepo, run nimbus.ForgeRun, reserve float64, now time.Time) (done bool, err error) {
	for page, more := 1, true; more && page <= mostPages; page++ {
		if !p.spend(repo, now, reserve) {
			return false, nil
		}
		var jobs []nimbus.ForgeEvent
		if jobs, more, err = p.GitHub.RunJobs(ctx, repo, run.ID, page); err != nil {
			return false, err
		}
		for i := range jobs {
			if err := p.Jobs.Observe(ctx, &jobs[i]); err != nil {
				return false, fmt.Errorf("observe job %d: %w", jobs[i].Job.JobID, err)
			}
		}
	}
	p.runs[run.ID] = lookedAt{now, run.UpdatedAt}
	return true, nil
}

// changed tells whether a run may have jobs that were not seen.
func (p *Poller) changed(run nimbus.ForgeRun, over bool, now time.Time) bool {
	before, ok := p.runs[run.ID]
	if over {
		return now.Sub(run.UpdatedAt) < overWithin && (!ok || before.updated.Before(run.UpdatedAt))
	}
	return !ok || !before.updated.Equal(run.UpdatedAt) || now.Sub(before.at) >= runEvery
}

func (p *Poller) spend(repo nimbus.ForgeRepo, now time.Time, reserve float64) bool {
	if p.purses[repo.InstallationID] == nil {
		p.purses[repo.InstallationID] = &purse{calls: callsAtOnce, at: now}
	}
	return p.purses[repo.InstallationID].take(now, reserve)
}

// forget drops what is of no use any more.
func (p *Poller) forget(repos []nimbus.ForgeRepo, now time.Time) {
	for repo := range p.polled {
		if !slices.Contains(repos, repo) {
			delete(p.polled, repo)
		}
	}
	for id, run := range p.runs {
		if now.Sub(run.at) > 2*overWithin || len(p.runs) > mostRuns {
			delete(p.runs, id)
		}
	}
}
