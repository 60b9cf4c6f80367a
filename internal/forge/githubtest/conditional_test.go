package githubtest_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// TestUnchangedCostsNothing: to poll a repository in which nothing happened
// spends nothing of the hour's budget, and to poll one in which something did
// tells it.
func TestUnchangedCostsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *githubtest.Config) { c.Limits = githubtest.GitHubLimits() })
	run := w.push(project(oneJob))
	job := w.event(run.Jobs[0].ID).Job
	repo := nimbus.ForgeRepo{InstallationID: job.InstallationID, Owner: job.Owner, Name: job.Repo}
	type seen struct {
		Runs    []nimbus.ForgeRun
		Jobs    []nimbus.ForgeEvent
		Runners []nimbus.ForgeRunner
	}
	poll := func() (out seen) {
		t.Helper()
		var errs [3]error
		out.Runs, _, errs[0] = w.app.Runs(w.ctx, repo, nimbus.ForgeQueued, 1)
		out.Jobs, _, errs[1] = w.app.RunJobs(w.ctx, repo, run.ID, 1)
		out.Runners, _, errs[2] = w.app.Runners(w.ctx, repo, 1)
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	first := poll()
	spent := w.Usage()
	for range 20 {
		if diff := cmp.Diff(first, poll()); diff != "" {
			t.Fatalf("what did not change differs:\n%s", diff)
		}
	}
	if used := w.Usage(); used.MostInHour != spent.MostInHour || used.Unchanged != 60 || used.Calls != spent.Calls+60 {
		t.Errorf("60 calls about nothing new: %+v, before %+v", used, spent)
	}
	if _, _, err := w.app.CreateRunner(w.ctx, job, "nimbus-att-1", []string{"nimbus"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Steal(job.JobID, "somebody's"); err != nil {
		t.Fatal(err)
	}
	now := poll()
	if len(now.Runs) != 0 || len(now.Runners) != 1 || now.Jobs[0].Status != nimbus.ForgeInProgress {
		t.Errorf("what changed is not told: %+v", now)
	}
	// A token that is refused is no reason to show what was kept.
	w.Suspend(true)
	_, _, err := w.app.Runners(w.ctx, repo, 1)
	code(t, err, nimbus.CodeForbidden, "suspended")
}
