package demand

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times and bounds of looking for leftovers.
const (
	leftoversEvery = time.Hour
	leftoverPages  = 10 // of a repository's runners
)

// Registry is what looking for leftovers needs of GitHub. A runner that is busy
// can't be removed: conflict. A repository without a name is its owner, an
// organisation.
type Registry interface {
	Runners(ctx context.Context, repo nimbus.ForgeRepo, page int) (runners []nimbus.ForgeRunner, more bool, err error)
	RemoveRunner(ctx context.Context, job nimbus.GitHubJob, r nimbus.Runner) error
}

// Books tells what a runner is used for.
type Books interface {
	// RunnerUse tells whether a runner is of an attempt that is known, and
	// whether that has been over for a while.
	RunnerUse(ctx context.Context, name string) (known, over bool, err error)
}

// Leftovers removes runners that are registered with GitHub and that nobody
// needs: their attempt is over, and deregistering them failed for too long; or
// no attempt is known, as after a loss of the database. The latter may be those
// of another Nimbus: they have to be idle and offline for a whole interval.
type Leftovers struct {
	GitHub Registry
	Store  Repositories
	Books  Books
	// Organizations are those with which runners are registered, without names
	// of repositories; nil for none.
	Organizations func() []nimbus.ForgeRepo
	Log           *slog.Logger

	offline map[registered]bool // unknown ones of the last look
}

// registered names a runner: ids are those of one GitHub, and there may be others.
type registered struct {
	at nimbus.ForgeRepo
	id int64
}

// Run looks for leftovers until ctx ends.
func (l *Leftovers) Run(ctx context.Context) {
	every(ctx, l.Log, "looking for runners that are left over", leftoversEvery, l.Sweep)
}

// Sweep looks once through the runners of the repositories that had jobs, and of
// the organisations that have runners.
func (l *Leftovers) Sweep(ctx context.Context) error {
	repos, err := l.Store.SeenRepositories(ctx, seenWithin, mostRepos)
	if err != nil {
		return fmt.Errorf("read which repositories had jobs: %w", err)
	}
	if l.Organizations != nil {
		repos = append(repos, l.Organizations()...)
	}
	before := l.offline
	l.offline = map[registered]bool{}
	for _, repo := range repos {
		switch err := l.look(ctx, repo, before); nimbus.ErrorCode(err) {
		case "", nimbus.CodeForbidden, nimbus.CodeNotFound: // no longer ours to see
		default:
			return fmt.Errorf("look at the runners of %s/%s: %w", repo.Owner, repo.Name, err)
		}
	}
	return nil
}

func (l *Leftovers) look(ctx context.Context, repo nimbus.ForgeRepo, before map[registered]bool) error {
	var leftover []nimbus.Runner
	for page, more := 1, true; more && page <= leftoverPages; page++ {
		var runners []nimbus.ForgeRunner
		var err error
		if runners, more, err = l.GitHub.Runners(ctx, repo, page); err != nil {
			return err
		}
		for _, r := range runners {
			if r.Busy || !strings.HasPrefix(r.Name, nimbus.RunnerName(nimbus.PrefixAttempt)) {
				continue
			}
			known, over, err := l.Books.RunnerUse(ctx, r.Name)
			if err != nil {
				return fmt.Errorf("look what %s is for: %w", r.Name, err)
			}
			key := registered{repo, r.ID}
			if !known && !r.Online {
				l.offline[key] = true
			}
			if over || !known && !r.Online && before[key] {
				leftover = append(leftover, r.Runner)
			}
		}
	}
	job := nimbus.GitHubJob{InstallationID: repo.InstallationID, Owner: repo.Owner, Repo: repo.Name}
	for _, r := range leftover { // not before the pages were read: they would shift
		err := l.GitHub.RemoveRunner(ctx, job, r)
		if nimbus.ErrorCode(err) == nimbus.CodeConflict {
			continue // it has just got a job
		}
		if err != nil {
			return err
		}
		l.Log.InfoContext(ctx, "a runner that was left over is removed", "repo", repo.Owner+"/"+repo.Name, "runner", r.Name)
	}
	return nil
}
