package forge

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// runnerReleases is how many releases are read: more than half a year of them,
// which is far more than the month that decides.
const runnerReleases = 20

// maxVersion bounds a version: it is shown in tables.
const maxVersion = 32

// APIURL is the address of the API that the App calls.
func (a *App) APIURL() string { return a.baseURL }

// RunnerReleases are the latest releases of GitHub's runner, newest first. They
// are public, so that any installation's token reads them. What was not changed
// since it was read last costs nothing. Codes: not_found where there are none,
// as on a GitHub Enterprise Server; forbidden while nobody has installed the App.
func (a *App) RunnerReleases(ctx context.Context) ([]nimbus.RunnerRelease, error) {
	all, err := a.Installations(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(i Installation) bool { return !i.Suspended })
	if i < 0 {
		return nil, nimbus.Errorf(nimbus.CodeForbidden, "nobody has installed the App %d, so that it may ask for nothing", a.id).
			WithHint("install it, from its page at GitHub")
	}
	var list []*github.RepositoryRelease
	err = a.callAs(conditionally(withUrgency(ctx, background)), all[i].ID, "list the releases of GitHub's runner", func(ctx context.Context, c *github.Client) error {
		list = nil
		_, err := get(ctx, c, fmt.Sprintf("repos/actions/runner/releases?per_page=%d", runnerReleases), &list)
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []nimbus.RunnerRelease
	for _, r := range list {
		version := strings.TrimPrefix(r.GetTagName(), "v")
		if r.GetDraft() || r.GetPrerelease() || version == "" || len(version) > maxVersion || r.GetPublishedAt().IsZero() {
			continue
		}
		out = append(out, nimbus.RunnerRelease{Version: text(version), PublishedAt: r.GetPublishedAt().UTC()})
	}
	return out, nil
}

// APIs are the addresses of those that the Apps are connected with, each once.
func (s *Apps) APIs() (out []string) {
	for _, app := range s.All() {
		if !slices.Contains(out, app.baseURL) {
			out = append(out, app.baseURL)
		}
	}
	return out
}

// RunnerReleases is App.RunnerReleases of the first App of an API that may ask.
func (s *Apps) RunnerReleases(ctx context.Context, api string) (releases []nimbus.RunnerRelease, err error) {
	err = nimbus.Errorf(nimbus.CodeNotFound, "no App of %s is connected", api)
	for _, app := range s.All() {
		if app.baseURL != api {
			continue
		}
		if releases, err = app.RunnerReleases(ctx); nimbus.ErrorCode(err) != nimbus.CodeForbidden {
			return releases, err
		}
	}
	return releases, err
}
