package server

import (
	"context"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/nimbus-ci/nimbus"
)

// askRun is how long GitHub may take to say what a run came from: a step of the
// job waits for it.
const askRun = 10 * time.Second

// runForge asks GitHub what a run came from: *forge.Apps.
type runForge interface {
	RunOrigin(ctx context.Context, job nimbus.GitHubJob) (nimbus.RunOrigin, error)
}

// runBooks keep what GitHub said: *store.Store.
type runBooks interface {
	RunOrigin(ctx context.Context, orgID, repo string, runID int64) (nimbus.RunOrigin, error)
	SaveRunOrigin(ctx context.Context, orgID, repo string, runID int64, o nimbus.RunOrigin) error
}

// runs know what runs of workflows came from, which decides what their jobs may do
// to the cache and the registry.
type runs struct {
	forge   runForge
	books   runBooks
	flights singleflight.Group
}

// origin is what a run came from: kept, or asked once for all jobs of the run that
// want to know at the same time.
func (r *runs) origin(ctx context.Context, job nimbus.Job) (nimbus.RunOrigin, error) {
	repo, run := strings.ToLower(job.Repo), job.GitHub.RunID
	o, err := r.books.RunOrigin(ctx, job.OrgID, repo, run)
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return o, err
	}
	answer := r.flights.DoChan(job.OrgID+" "+repo+" "+strconv.FormatInt(run, 10), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askRun)
		defer cancel()
		// Another one's question may have been answered and kept since it was looked.
		o, err := r.books.RunOrigin(ctx, job.OrgID, repo, run)
		if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			return o, err
		}
		o, err = r.forge.RunOrigin(ctx, job.GitHub)
		if err != nil {
			return nil, err
		}
		return o, r.books.SaveRunOrigin(ctx, job.OrgID, repo, run, o)
	})
	select {
	case got := <-answer:
		o, _ := got.Val.(nimbus.RunOrigin)
		return o, got.Err
	case <-ctx.Done():
		return nimbus.RunOrigin{}, context.Cause(ctx)
	}
}
