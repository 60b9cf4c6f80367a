package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
)

// boundJobs says which job an attempt is proved to run: *scheduler.Service.
type boundJobs interface {
	BoundJob(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.Job, error)
}

// cacheBooks know whose jobs have a cache: *store.Store.
type cacheBooks interface {
	GitHubJobsCached(ctx context.Context, orgID string) (bool, error)
}

// GitHubToken implements httpapi.Cache. The books follow what really runs, so the
// scopes are those of the job that GitHub gave the runner, whichever it was made
// for. Where GitHub can't be asked the job has no cache for now.
func (c *jobCache) GitHubToken(ctx context.Context, hostID string, l nimbus.Lease) (token, reason string, err error) {
	job, err := c.bound.BoundJob(ctx, hostID, l)
	if err != nil {
		return "", "", err
	}
	if job.Source != nimbus.SourceGitHub || !nimbus.ValidRepo(job.Repo) {
		return "", "", nimbus.Errorf(nimbus.CodeForbidden, "the job %s is not of a repository at GitHub", job.ID)
	}
	on, err := c.books.GitHubJobsCached(ctx, job.OrgID)
	if err != nil {
		return "", "", err
	}
	if !on {
		return "", "", nimbus.Errorf(nimbus.CodeForbidden, "the org has its jobs of GitHub's use GitHub's own cache").WithHint("nimbus orgs cache on changes that")
	}
	origin, err := c.runs.origin(ctx, job)
	if err != nil {
		return "", "", fmt.Errorf("learn what the run of job %s came from: %w", job.ID, err)
	}
	write, read, reason := actions.Scopes(origin)
	if write == "" && len(read) == 0 {
		return "", "", nimbus.Errorf(nimbus.CodeForbidden, "the job has nothing that it may read of the cache: %s", reason)
	}
	c.log.InfoContext(ctx, "a job of GitHub's has the cache", "job", job.ID, "saves", write, "reads", read, "reason", reason)
	now := time.Now()
	token, err = c.keys.Mint(actions.Grant{
		Caller:    cache.Caller{OrgID: job.OrgID, Repo: strings.ToLower(job.Repo), JobID: job.ID, Write: write, Read: read},
		NotBefore: now.Add(-clocks), ExpiresAt: now.Add(nimbus.MaxTimeout + lateEnd),
	})
	if err != nil {
		return "", "", fmt.Errorf("make a token for the cache: %w", err)
	}
	return token, reason, nil
}
