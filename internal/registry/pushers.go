package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Work is what a job works on, which decides where it may push.
type Work struct {
	Repo string // "owner/name" at GitHub; "" for a job of the org's own
	// Stranger is why the job pulls and pushes nothing: it runs what others wrote, as
	// those of a fork do, or may. "" for one that does not.
	Stranger string
}

// MayPush lets a job push to a repository that is called after the one at GitHub
// that it works on, or below it, and to those whose rules say so. orgName is the
// org's. Codes: forbidden.
func (s *Service) MayPush(ctx context.Context, p Place, orgName string, w Work) error {
	if w.Stranger != "" {
		return nimbus.Errorf(nimbus.CodeForbidden, "the job pulls and pushes no images: %s", w.Stranger)
	}
	repo := strings.ToLower(w.Repo)
	if repo != "" && isCalledAfter(p.Repo, orgName, repo) {
		return nil
	}
	rules, err := s.store.RegistryRules(ctx, p)
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return fmt.Errorf("look who may push: %w", err)
	}
	from := repo
	if from == "" {
		from = nimbus.OwnJobs
	}
	if slices.Contains(rules.PushFrom, from) || slices.Contains(rules.PushFrom, nimbus.AllJobs) {
		return nil
	}
	if repo == "" {
		return nimbus.Errorf(nimbus.CodeForbidden, "jobs of the org's own push where a repository's rules let them, and those of %.200s don't", p.Repo).
			WithHint("`nimbus registry rules %.200s --push-from %s` changes that", p.Repo, from)
	}
	return nimbus.Errorf(nimbus.CodeForbidden, "a job of %s pushes to %s/%s and what is below it, and where a repository's rules let it; those of %.200s don't", repo, orgName, repo, p.Repo).
		WithHint("`nimbus registry rules %.200s --push-from %s` changes that", p.Repo, from)
}

// isCalledAfter tells whether a repository is that of one at GitHub: OWNER/NAME,
// what is below it, and, where the owner is called like the org, NAME alone. What is
// below NAME may be of an owner who is called like that.
func isCalledAfter(place, orgName, repo string) bool {
	owner, name, _ := strings.Cut(repo, "/")
	return place == repo || strings.HasPrefix(place, repo+"/") || owner == orgName && place == name
}

// checkPushFrom reads whose jobs may push. Codes: invalid.
func checkPushFrom(from []string) ([]string, error) {
	if len(from) > nimbus.MaxPushFrom {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "jobs of %d repositories can't be let push, %d are possible", len(from), nimbus.MaxPushFrom).
			WithHint("%q lets all jobs of the org push", nimbus.AllJobs)
	}
	all := make([]string, 0, len(from))
	for _, repo := range from {
		if repo != nimbus.OwnJobs && repo != nimbus.AllJobs && !nimbus.ValidRepo(repo) {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%.100q is no repository whose jobs could push", repo).
				WithHint("it is OWNER/NAME, %q for the org's own jobs, or %q for all of the org", nimbus.OwnJobs, nimbus.AllJobs)
		}
		all = append(all, strings.ToLower(repo))
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
