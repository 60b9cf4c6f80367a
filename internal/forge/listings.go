package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// pageSize is the largest that GitHub allows.
const pageSize = 100

// FailedDeliveries is a page of the App's webhooks that did not get through,
// newest first; cursor is "" for the first page, and next is "" on the last.
func (a *App) FailedDeliveries(ctx context.Context, cursor string) (page []nimbus.SentDelivery, next string, err error) {
	err = a.asApp(ctx, "list webhook deliveries", func(ctx context.Context, c *github.Client) error {
		query := url.Values{"per_page": {strconv.Itoa(pageSize)}, "status": {"failure"}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		var list []*github.HookDelivery
		resp, err := get(ctx, c, "app/hook/deliveries?"+query.Encode(), &list)
		if err != nil {
			return err
		}
		page, next = nil, resp.Cursor
		for _, d := range list {
			// Enterprise Server may not know the filter.
			if code := d.GetStatusCode(); code/100 != 2 && token(d.GetGUID(), maxDeliveryID) && d.GetID() > 0 {
				page = append(page, nimbus.SentDelivery{ID: d.GetID(), GUID: d.GetGUID(), Event: d.GetEvent(), SentAt: d.GetDeliveredAt().UTC(), Status: code})
			}
		}
		return nil
	})
	return page, next, err
}

// Redeliver has GitHub send a webhook once more. CodeNotFound: GitHub has
// forgotten it.
func (a *App) Redeliver(ctx context.Context, id int64) error {
	return a.asApp(ctx, "ask for a webhook again", func(ctx context.Context, c *github.Client) error {
		req, err := c.NewRequest(ctx, http.MethodPost, fmt.Sprintf("app/hook/deliveries/%d/attempts", id), nil)
		if err != nil {
			return err
		}
		_, err = c.BareDo(req)
		return accepted(err)
	})
}

// Runs is a page of a repository's runs with a status, newest first.
func (a *App) Runs(ctx context.Context, repo nimbus.ForgeRepo, status nimbus.ForgeStatus, page int) (runs []nimbus.ForgeRun, more bool, err error) {
	err = a.call(conditionally(withUrgency(ctx, background)), repoJob(repo), "list runs", func(ctx context.Context, c *github.Client) error {
		var list struct {
			Runs []struct {
				ID        int64     `json:"id"`
				StartedAt timestamp `json:"run_started_at"`
				UpdatedAt timestamp `json:"updated_at"`
			} `json:"workflow_runs"`
		}
		query := url.Values{"status": {string(status)}, "per_page": {strconv.Itoa(pageSize)}, "page": {strconv.Itoa(page)}, "exclude_pull_requests": {"true"}}
		resp, err := get(ctx, c, fmt.Sprintf("repos/%s/%s/actions/runs?%s", repo.Owner, repo.Name, query.Encode()), &list)
		if err != nil {
			return err
		}
		runs, more = nil, resp.NextPage > 0 || len(list.Runs) == pageSize
		for _, r := range list.Runs {
			runs = append(runs, nimbus.ForgeRun{ID: r.ID, StartedAt: r.StartedAt.Time, UpdatedAt: r.UpdatedAt.Time})
		}
		return nil
	})
	return runs, more, err
}

// RunJobs is a page of the jobs of a run's latest attempt, as events would tell
// of them. Those that Nimbus can make nothing of are left out.
func (a *App) RunJobs(ctx context.Context, repo nimbus.ForgeRepo, runID int64, page int) (jobs []nimbus.ForgeEvent, more bool, err error) {
	err = a.call(conditionally(withUrgency(ctx, background)), repoJob(repo), "list jobs", func(ctx context.Context, c *github.Client) error {
		var list struct {
			Jobs []jobFields `json:"jobs"`
		}
		query := url.Values{"filter": {"latest"}, "per_page": {strconv.Itoa(pageSize)}, "page": {strconv.Itoa(page)}}
		resp, err := get(ctx, c, fmt.Sprintf("repos/%s/%s/actions/runs/%d/jobs?%s", repo.Owner, repo.Name, runID, query.Encode()), &list)
		if err != nil {
			return err
		}
		jobs, more = nil, resp.NextPage > 0 || len(list.Jobs) == pageSize
		for _, f := range list.Jobs {
			ev, err := f.event(repo.Owner, repo.Name)
			if err != nil || ev == nil {
				continue // what its event would be answered with 400 for
			}
			ev.Job.InstallationID = repo.InstallationID
			ev.Demand = ev.Status == nimbus.ForgeQueued
			jobs = append(jobs, *ev)
		}
		return nil
	})
	return jobs, more, err
}

// repoJob is what call needs to know of a repository.
func repoJob(r nimbus.ForgeRepo) nimbus.GitHubJob {
	return nimbus.GitHubJob{InstallationID: r.InstallationID, Owner: r.Owner, Repo: r.Name}
}

func get(ctx context.Context, c *github.Client, path string, into any) (*github.Response, error) {
	req, err := c.NewRequest(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return c.Do(req, into)
}

// accepted takes 202 for the success that it is.
func accepted(err error) error {
	var ok *github.AcceptedError
	if errors.As(err, &ok) {
		return nil
	}
	return err
}

// Runners is a page of the runners that are registered with a repository, or
// with an organisation where repo has no name.
func (a *App) Runners(ctx context.Context, repo nimbus.ForgeRepo, page int) (runners []nimbus.ForgeRunner, more bool, err error) {
	if repo.Name != "" {
		if err := checkRepository(repo.Owner, repo.Name); err != nil {
			return nil, false, err
		}
	}
	err = a.callAs(conditionally(withUrgency(ctx, background)), repo.InstallationID, "list runners", func(ctx context.Context, c *github.Client) error {
		list, resp, err := listRunners(ctx, c, repo, &github.ListRunnersOptions{
			ListOptions: github.ListOptions{Page: page, PerPage: pageSize},
		})
		if err != nil {
			return err
		}
		org := ""
		if repo.Name == "" {
			org = repo.Owner
		}
		runners, more = nil, resp.NextPage > 0 || len(list.Runners) == pageSize
		for _, r := range list.Runners {
			runners = append(runners, nimbus.ForgeRunner{
				Runner: nimbus.Runner{ID: r.GetID(), Name: r.GetName(), Org: org}, Online: r.GetStatus() == "online", Busy: r.GetBusy(),
			})
		}
		return nil
	})
	return runners, more, err
}
