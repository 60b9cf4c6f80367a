package forge

import (
	"context"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// maxSummary is GitHub's bound of a check run's summary, in characters.
const maxSummary = 65535

// ShowCheck makes a check run at the commit of a job, or changes the one with
// c.ID, and returns its id. The owner has to have granted checks:write: else
// forbidden.
func (a *App) ShowCheck(ctx context.Context, job nimbus.GitHubJob, c nimbus.Check) (int64, error) {
	if job.HeadSHA == "" {
		return 0, nimbus.Errorf(nimbus.CodeInvalid, "the job came without its commit")
	}
	summary := []rune(c.Summary)
	output := &github.CheckRunOutput{Title: &c.Title, Summary: new(string(summary[:min(len(summary), maxSummary)]))}
	conclusion := string(c.Conclusion)
	var link *string
	if c.URL != "" {
		link = &c.URL
	}
	var run *github.CheckRun
	err := a.call(ctx, job, "show a check run", func(ctx context.Context, client *github.Client) (err error) {
		if c.ID != 0 {
			run, _, err = client.Checks.UpdateCheckRun(ctx, job.Owner, job.Repo, c.ID, github.UpdateCheckRunOptions{
				Name: c.Name, DetailsURL: link, Status: new("completed"), Conclusion: &conclusion, Output: output,
			})
			return err
		}
		run, _, err = client.Checks.CreateCheckRun(ctx, job.Owner, job.Repo, github.CreateCheckRunOptions{
			Name: c.Name, HeadSHA: job.HeadSHA, DetailsURL: link, Status: new("completed"), Conclusion: &conclusion, Output: output,
		})
		return err
	})
	if err != nil {
		return 0, err
	}
	if run.GetID() == 0 {
		return 0, nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered without the check run")
	}
	return run.GetID(), nil
}

// ShowCheck is App.ShowCheck of the job's App.
func (s *Apps) ShowCheck(ctx context.Context, job nimbus.GitHubJob, c nimbus.Check) (int64, error) {
	app, err := s.of(ctx, job.InstallationID)
	if err != nil {
		return 0, err
	}
	return app.ShowCheck(ctx, job, c)
}
