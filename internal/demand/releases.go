package demand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times of asking for the releases of GitHub's runner. They come out every few
// weeks, and what they decide takes a month.
const (
	releasesEvery = 24 * time.Hour
	releasesRetry = time.Hour // where it could not be learnt
)

// ReleaseSource tells which releases of its runner GitHub has.
type ReleaseSource interface {
	// APIs are those that are connected.
	APIs() []string
	// RunnerReleases are the latest ones. Codes: not_found where there are none.
	RunnerReleases(ctx context.Context, api string) ([]nimbus.RunnerRelease, error)
}

// ReleaseStore keeps them.
type ReleaseStore interface {
	Now(ctx context.Context) (time.Time, error)
	RunnerReleases(ctx context.Context) ([]nimbus.RunnerReleases, error)
	SaveRunnerReleases(ctx context.Context, r nimbus.RunnerReleases) error
	ForgetRunnerReleases(ctx context.Context, api string) error
}

// Releases learns which releases of its runner GitHub has: it gives no jobs to a
// runner that is a month behind.
type Releases struct {
	GitHub ReleaseSource
	Store  ReleaseStore
	Log    *slog.Logger
}

// Run looks for releases until ctx ends.
func (r *Releases) Run(ctx context.Context) {
	every(ctx, r.Log, "asking for the releases of GitHub's runner", releasesRetry, r.Look)
}

// Look asks each GitHub of which nothing was learnt for a day, and forgets those
// that are connected no more. What was known before stays where one does not
// tell.
func (r *Releases) Look(ctx context.Context) error {
	known, err := r.Store.RunnerReleases(ctx)
	if err != nil {
		return fmt.Errorf("read which releases are known: %w", err)
	}
	now, err := r.Store.Now(ctx)
	if err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	before := map[string]nimbus.RunnerReleases{}
	for _, k := range known {
		before[k.APIURL] = k
	}
	var errs []error
	for _, api := range r.GitHub.APIs() {
		k, ok := before[api]
		delete(before, api)
		if ok && now.Sub(k.CheckedAt) < releasesEvery {
			continue
		}
		k.APIURL = api
		errs = append(errs, r.ask(ctx, k, now))
	}
	for api := range before {
		errs = append(errs, r.Store.ForgetRunnerReleases(ctx, api))
	}
	return errors.Join(errs...)
}

// ask asks one GitHub. That it does not tell is kept, for whoever wonders.
func (r *Releases) ask(ctx context.Context, k nimbus.RunnerReleases, now time.Time) error {
	releases, err := r.GitHub.RunnerReleases(ctx, k.APIURL)
	switch nimbus.ErrorCode(err) {
	case "", nimbus.CodeNotFound:
		k.Releases, k.CheckedAt, k.Trouble = releases, now, ""
		return r.Store.SaveRunnerReleases(ctx, k)
	case nimbus.CodeForbidden: // until somebody changes that, and no news each time
		k.Trouble = err.Error()
		return r.Store.SaveRunnerReleases(ctx, k)
	}
	k.Trouble = err.Error()
	return errors.Join(fmt.Errorf("ask %s: %w", k.APIURL, err), r.Store.SaveRunnerReleases(ctx, k))
}
