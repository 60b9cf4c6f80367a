package store_test

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestRunsAndSwitches: what a run came from is one org's to know and stays as it was
// told first; the switch is one org's, on until it is set, and goes with it.
func TestRunsAndSwitches(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + t.TempDir() + "/nimbus.db" },
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, s := t.Context(), open(t, dsn(t))
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			org, err := identity.New(s, nimbus.SystemClock{}).CreateOrg(ctx, identity.Root(), "acme", nil)
			must(err)
			first := nimbus.RunOrigin{Event: "push", HeadBranch: "main", HeadRepo: "acme/web", DefaultBranch: "main", OnBranch: true}
			must(s.SaveRunOrigin(ctx, org.ID, "acme/web", 7, first))
			must(s.SaveRunOrigin(ctx, org.ID, "acme/web", 7, nimbus.RunOrigin{Event: "pull_request"}))
			if got, err := s.RunOrigin(ctx, org.ID, "acme/web", 7); err != nil || got != first {
				t.Errorf("%+v, %v", got, err)
			}
			for _, other := range []struct {
				org, repo string
				run       int64
			}{{nimbus.DefaultOrgID, "acme/web", 7}, {org.ID, "acme/other", 7}, {org.ID, "acme/web", 8}} {
				if _, err := s.RunOrigin(ctx, other.org, other.repo, other.run); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
					t.Errorf("%+v: %v", other, err)
				}
			}
			must(s.OffsetClock(ctx, 41*24*time.Hour))
			must(s.SaveRunOrigin(ctx, org.ID, "acme/web", 9, first))
			if _, err := s.RunOrigin(ctx, org.ID, "acme/web", 7); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
				t.Errorf("it is kept for ever: %v", err)
			}

			cached := func(orgID string) bool {
				t.Helper()
				on, err := s.GitHubJobsCached(ctx, orgID)
				must(err)
				return on
			}
			event := nimbus.AuditEvent{OrgID: org.ID, Actor: "root", Action: "org_cache.set", Target: org.ID, Outcome: nimbus.AuditAllowed}
			for _, on := range []bool{false, false, true, true, false} {
				must(s.SetGitHubJobsCached(ctx, org.ID, on, event))
				if cached(org.ID) != on || !cached(nimbus.DefaultOrgID) {
					t.Errorf("set to %t: %t, another org's %t", on, cached(org.ID), cached(nimbus.DefaultOrgID))
				}
			}
			must(s.DeleteOrg(ctx, org.ID, nimbus.AuditEvent{}))
			if _, err := s.RunOrigin(ctx, org.ID, "acme/web", 9); nimbus.ErrorCode(err) != nimbus.CodeNotFound || !cached(org.ID) {
				t.Errorf("something is left of the org: %v", err)
			}
		})
	}
}
