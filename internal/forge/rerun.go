package forge

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// maxRunPages bounds the jobs that are read of a run, 100 a page: a matrix has
// up to 256.
const maxRunPages = 10

// RunState reads how the latest attempt of a job's run stands, and of one that
// is over the conclusions of its jobs.
func (a *App) RunState(ctx context.Context, job nimbus.GitHubJob) (state nimbus.ForgeRunState, err error) {
	path := fmt.Sprintf("repos/%s/%s/actions/runs/%d", job.Owner, job.Repo, job.RunID)
	err = a.call(conditionally(ctx), job, "read a run", func(ctx context.Context, c *github.Client) error {
		var run struct {
			ID      int64  `json:"id"`
			Attempt int64  `json:"run_attempt"`
			Status  string `json:"status"`
		}
		if _, err := get(ctx, c, path, &run); err != nil {
			return err
		}
		if run.ID != job.RunID || run.Attempt < 1 {
			return nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered with another run")
		}
		state = nimbus.ForgeRunState{Attempt: run.Attempt, Over: run.Status == string(nimbus.ForgeCompleted)}
		return nil
	})
	if err != nil || !state.Over {
		return state, err
	}
	state.Jobs = map[int64]nimbus.ForgeRunJob{}
	for page := 1; page <= maxRunPages && !state.All; page++ {
		jobs, more, err := a.conclusions(ctx, job, fmt.Sprintf("%s/jobs?filter=latest&per_page=%d&page=%d", path, pageSize, page))
		if err != nil {
			return state, err
		}
		for _, j := range jobs {
			state.Jobs[j.ID] = nimbus.ForgeRunJob{Name: j.Name, Conclusion: j.Conclusion}
		}
		state.All = !more
	}
	return state, nil
}

// concluded is a job of a run that is over.
type concluded struct {
	ID         int64  `json:"id"`
	Name       string `json:"name"`
	Conclusion string `json:"conclusion"`
}

func (a *App) conclusions(ctx context.Context, job nimbus.GitHubJob, path string) (jobs []concluded, more bool, err error) {
	err = a.call(ctx, job, "list jobs", func(ctx context.Context, c *github.Client) error {
		var list struct {
			Jobs []concluded `json:"jobs"`
		}
		resp, err := get(ctx, c, path, &list)
		if err != nil {
			return err
		}
		jobs, more = list.Jobs, resp.NextPage > 0 || len(list.Jobs) == pageSize
		return nil
	})
	return jobs, more, err
}

// RerunJob has GitHub run a job again, and those that need it, as the next
// attempt of its run. It takes actions:write. Codes: forbidden, not_found,
// conflict while the run goes on.
func (a *App) RerunJob(ctx context.Context, job nimbus.GitHubJob) error {
	return a.rerun(ctx, job, fmt.Sprintf("repos/%s/%s/actions/jobs/%d/rerun", job.Owner, job.Repo, job.JobID))
}

// RerunFailed is RerunJob of all jobs of the run that did not succeed.
func (a *App) RerunFailed(ctx context.Context, job nimbus.GitHubJob) error {
	return a.rerun(ctx, job, fmt.Sprintf("repos/%s/%s/actions/runs/%d/rerun-failed-jobs", job.Owner, job.Repo, job.RunID))
}

func (a *App) rerun(ctx context.Context, job nimbus.GitHubJob, path string) error {
	err := a.call(ctx, job, "run jobs again", func(ctx context.Context, c *github.Client) error {
		req, err := c.NewRequest(ctx, http.MethodPost, path, nil)
		if err != nil {
			return err
		}
		_, err = c.BareDo(req)
		return err
	})
	if nimbus.ErrorCode(err) != nimbus.CodeForbidden {
		return err
	}
	switch why := err.Error(); {
	case strings.Contains(why, "already running"):
		return nimbus.Errorf(nimbus.CodeConflict, "the run goes on: %w", err).WithHint("it can be run again once all of its jobs have ended")
	case strings.Contains(why, "not accessible by integration"):
		return nimbus.Errorf(nimbus.CodeForbidden, "the App may not run jobs again: %w", err).
			WithHint("give it actions:write: at GitHub in the App's settings, under Permissions & events; then the owner approves it")
	}
	return nimbus.Errorf(nimbus.CodeForbidden, "%w", err).WithHint("GitHub runs a run again within 30 days, 50 times at most")
}

// RunState is App.RunState of the job's App.
func (s *Apps) RunState(ctx context.Context, job nimbus.GitHubJob) (nimbus.ForgeRunState, error) {
	app, err := s.of(ctx, job.InstallationID)
	if err != nil {
		return nimbus.ForgeRunState{}, err
	}
	return app.RunState(ctx, job)
}

// RerunJob is App.RerunJob of the job's App.
func (s *Apps) RerunJob(ctx context.Context, job nimbus.GitHubJob) error {
	app, err := s.of(ctx, job.InstallationID)
	if err != nil {
		return err
	}
	return app.RerunJob(ctx, job)
}

// RerunFailed is App.RerunFailed of the job's App.
func (s *Apps) RerunFailed(ctx context.Context, job nimbus.GitHubJob) error {
	app, err := s.of(ctx, job.InstallationID)
	if err != nil {
		return err
	}
	return app.RerunFailed(ctx, job)
}
