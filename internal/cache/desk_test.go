package cache_test

import (
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// TestNobodyNamesAllRepos: the sign for all repositories is no name that people may
// say, or who may set a repository's quota sets the org's.
func TestNobodyNamesAllRepos(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, desk, who := w.t.Context(), w.Desk(), nimbus.Principal{Kind: nimbus.PrincipalUser}
		w.saved(job(), "kept", "content")
		for _, named := range []string{cache.AllRepos, "acme", "acme/*", "*/app"} {
			w.wants("the quota of "+named, desk.SetQuota(ctx, who, nimbus.DefaultOrgID, named, 5), nimbus.CodeInvalid)
			f := nimbus.CacheFilter{Repo: named}
			_, _, _, err := desk.Remove(ctx, who, nimbus.DefaultOrgID, f)
			w.wants("what goes of "+named, err, nimbus.CodeInvalid)
			_, _, err = desk.Entries(ctx, nimbus.DefaultOrgID, f, nimbus.PageRequest{})
			w.wants("what is there of "+named, err, nimbus.CodeInvalid)
		}
		st, err := desk.Stats(ctx, nimbus.DefaultOrgID)
		if err != nil || st.Org.OwnQuota || st.Org.Entries != 1 {
			w.t.Errorf("the org has %+v, %v", st.Org, err)
		}
		_, _, err = desk.Entries(ctx, nimbus.DefaultOrgID, nimbus.CacheFilter{}, nimbus.PageRequest{Token: "-5"})
		w.wants("a page before the first", err, nimbus.CodeInvalid)
	})
}
