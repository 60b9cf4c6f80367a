package forge

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// maxRefBytes bounds the name of a branch: file systems bound it at GitHub.
const maxRefBytes = 255

// runFields is what is read of a run.
type runFields struct {
	ID         int64  `json:"id"`
	Event      string `json:"event"`
	HeadBranch string `json:"head_branch"`
	HeadSHA    string `json:"head_sha"`
	Repository struct {
		ID int64 `json:"id"`
	} `json:"repository"`
	HeadRepository *struct {
		ID       int64  `json:"id"`
		FullName string `json:"full_name"`
	} `json:"head_repository"`
	PullRequests []struct {
		Number int64 `json:"number"`
		Head   struct {
			Repo struct {
				ID int64 `json:"id"`
			} `json:"repo"`
		} `json:"head"`
		Base struct {
			Ref  string `json:"ref"`
			Repo struct {
				ID int64 `json:"id"`
			} `json:"repo"`
		} `json:"base"`
	} `json:"pull_requests"`
}

// RunOrigin asks what the run of a job came from: two calls, and up to three more
// for a run that may be a branch's. What does not change costs nothing the next
// time. Codes: not_found, forbidden, unavailable.
func (a *App) RunOrigin(ctx context.Context, job nimbus.GitHubJob) (nimbus.RunOrigin, error) {
	ctx = conditionally(ctx)
	var run runFields
	var repo struct {
		DefaultBranch string `json:"default_branch"`
	}
	at := fmt.Sprintf("repos/%s/%s", job.Owner, job.Repo)
	if err := a.read(ctx, job, "read a run", fmt.Sprintf("%s/actions/runs/%d", at, job.RunID), &run); err != nil {
		return nimbus.RunOrigin{}, err
	}
	if run.ID != job.RunID {
		return nimbus.RunOrigin{}, nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered with another run")
	}
	if err := a.read(ctx, job, "read a repository", at, &repo); err != nil {
		return nimbus.RunOrigin{}, err
	}
	o := run.origin()
	o.DefaultBranch = refName(repo.DefaultBranch)
	if run.ofBranch() && o.HeadBranch != "" {
		var err error
		if o.OnBranch, o.Unsure, err = a.onBranch(ctx, job, o.HeadBranch, commit(run.HeadSHA)); err != nil {
			return nimbus.RunOrigin{}, err
		}
	}
	return o, nil
}

// origin is what the run itself says.
func (r *runFields) origin() nimbus.RunOrigin {
	o := nimbus.RunOrigin{Event: text(r.Event), HeadBranch: refName(r.HeadBranch)}
	if r.HeadRepository == nil || !nimbus.ValidRepo(r.HeadRepository.FullName) {
		return o
	}
	o.HeadRepo = strings.ToLower(r.HeadRepository.FullName)
	// A branch that is to be merged into several others has as many pull requests,
	// and nothing tells of which the run is.
	if len(r.PullRequests) != 1 {
		return o
	}
	pull := r.PullRequests[0]
	if pull.Number > 0 && pull.Base.Repo.ID == r.Repository.ID && pull.Head.Repo.ID == r.HeadRepository.ID {
		o.Pull, o.BaseBranch = pull.Number, refName(pull.Base.Ref)
	}
	return o
}

// ofBranch tells whether the run's head can be a branch of its own repository.
func (r *runFields) ofBranch() bool {
	return r.HeadRepository != nil && r.HeadRepository.ID == r.Repository.ID && !strings.HasPrefix(r.Event, "pull_request")
}

// onBranch tells whether a commit is on a branch that no tag has the name of. A run
// names its branch or tag without saying which of them it is: whoever may push a
// tag and not the branch must not be taken for the branch. That a tag is gone by now
// proves nothing, that the commit is the branch's does.
func (a *App) onBranch(ctx context.Context, job nimbus.GitHubJob, branch, sha string) (on bool, unsure string, err error) {
	_, tagged, err := a.ref(ctx, job, "tags/"+branch)
	if err == nil && tagged {
		return false, "a tag has the branch's name", nil
	}
	tip, found := "", false
	if err == nil {
		tip, found, err = a.ref(ctx, job, "heads/"+branch)
	}
	switch nimbus.ErrorCode(err) {
	case "":
	case nimbus.CodeForbidden, nimbus.CodeNotFound:
		return false, "the App may not read which branches there are: give it contents:read", nil
	default:
		return false, "", err
	}
	switch {
	case !found || sha == "":
		return false, "there is no such branch", nil
	case tip == sha:
		return true, "", nil
	}
	var difference struct {
		Status string `json:"status"`
	}
	path := fmt.Sprintf("repos/%s/%s/compare/%s...%s?per_page=1", job.Owner, job.Repo, tip, sha)
	err = a.read(ctx, job, "compare commits", path, &difference)
	switch code := nimbus.ErrorCode(err); {
	case code == nimbus.CodeForbidden || code == nimbus.CodeNotFound:
		return false, "GitHub does not tell whether the run's commit is on its branch", nil
	case err != nil:
		return false, "", err
	case difference.Status == "behind" || difference.Status == "identical":
		return true, "", nil
	}
	return false, "the run's commit is not on its branch any more", nil
}

// ref is the commit of a branch or tag, by its whole name.
func (a *App) ref(ctx context.Context, job nimbus.GitHubJob, name string) (sha string, found bool, err error) {
	segments := strings.Split(name, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	var list []struct {
		Ref    string `json:"ref"`
		Object struct {
			SHA string `json:"sha"`
		} `json:"object"`
	}
	path := fmt.Sprintf("repos/%s/%s/git/matching-refs/%s", job.Owner, job.Repo, strings.Join(segments, "/"))
	if err := a.read(ctx, job, "look for a branch", path, &list); err != nil {
		return "", false, err
	}
	for _, r := range list {
		if r.Ref == "refs/"+name {
			return commit(r.Object.SHA), true, nil
		}
	}
	return "", false, nil
}

// read asks for one thing of a job's repository.
func (a *App) read(ctx context.Context, job nimbus.GitHubJob, what, path string, into any) error {
	return a.call(ctx, job, what, func(ctx context.Context, c *github.Client) error {
		_, err := get(ctx, c, path, into)
		return err
	})
}

// refName returns s where it can be the name of a branch or tag, "" otherwise: it
// becomes a scope, in which nothing may be cut or replaced.
func refName(s string) string {
	plain := !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) })
	if len(s) > maxRefBytes || !utf8.ValidString(s) || !plain {
		return ""
	}
	return s
}

// RunOrigin is App.RunOrigin of the job's App.
func (s *Apps) RunOrigin(ctx context.Context, job nimbus.GitHubJob) (nimbus.RunOrigin, error) {
	app, err := s.of(ctx, job.InstallationID)
	if err != nil {
		return nimbus.RunOrigin{}, err
	}
	return app.RunOrigin(ctx, job)
}
