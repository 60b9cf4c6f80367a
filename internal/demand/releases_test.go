package demand_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

const listReleases = "repos/list-releases"

// TestReleases: GitHub is asked once a day, again in vain for nothing, and what
// was known stays while it does not tell.
func TestReleases(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		apps := forge.NewApps(w, discard)
		apps.Set(map[int64]*forge.App{w.app.ID(): w.app}, nil)
		r := &demand.Releases{GitHub: apps, Store: w.store, Log: discard}
		known := func() nimbus.RunnerReleases {
			t.Helper()
			all, err := w.store.RunnerReleases(ctx)
			w.must(err)
			if len(all) != 1 || all[0].APIURL != w.URL() {
				t.Fatalf("known: %+v", all)
			}
			return all[0]
		}
		asked := func(want int) {
			t.Helper()
			if got := w.Calls(listReleases); got != want {
				t.Fatalf("GitHub was asked %d times, not %d", got, want)
			}
		}
		// As a GitHub Enterprise Server, which has none.
		w.must(r.Look(ctx))
		if k := known(); len(k.Releases) != 0 || k.CheckedAt.IsZero() || k.Trouble != "" {
			t.Errorf("without releases: %+v", k)
		}
		w.must(r.Look(ctx))
		asked(1)

		at := w.Now().UTC().Truncate(time.Second)
		releases := []nimbus.RunnerRelease{{Version: "2.338.0", PublishedAt: at}, {Version: "2.337.0", PublishedAt: at.Add(-time.Hour)}}
		w.SetRunnerReleases(releases...)
		w.pass(24*time.Hour + time.Minute)
		w.must(r.Look(ctx))
		if diff := cmp.Diff(releases, known().Releases); diff != "" {
			t.Errorf("known (-want +got):\n%s", diff)
		}
		asked(2)
		before := w.Usage().Unchanged
		w.pass(24*time.Hour + time.Minute)
		w.must(r.Look(ctx))
		asked(3)
		if got := w.Usage().Unchanged - before; got != 1 {
			t.Errorf("%d answers cost nothing, not the one that was the same", got)
		}

		learnt := known().CheckedAt
		w.pass(24*time.Hour + time.Minute)
		w.Refuse(githubtest.Refusal{Operation: listReleases, Status: http.StatusBadGateway})
		if err := r.Look(ctx); err == nil {
			t.Error("that GitHub does not answer is no error")
		}
		if k := known(); k.Trouble == "" || len(k.Releases) != 2 || !k.CheckedAt.Equal(learnt) {
			t.Errorf("while it does not answer: %+v", k)
		}
		w.must(r.Look(ctx)) // it is not put off for a day
		if k := known(); k.Trouble != "" || !k.CheckedAt.After(learnt) {
			t.Errorf("once it answers: %+v", k)
		}

		apps.Set(nil, nil)
		w.must(r.Look(ctx))
		if all, err := w.store.RunnerReleases(ctx); err != nil || len(all) != 0 {
			t.Errorf("of an App that is gone: %+v %v", all, err)
		}
	})
}

// TestReleasesOfASuspendedApp: who may ask for nothing is told as it is, and is
// no error each hour.
func TestReleasesOfASuspendedApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "sqlite:"+t.TempDir()+"/nimbus.db")
	apps := forge.NewApps(w, discard)
	apps.Set(map[int64]*forge.App{w.app.ID(): w.app}, nil)
	w.Suspend(true)
	w.must((&demand.Releases{GitHub: apps, Store: w.store, Log: discard}).Look(t.Context()))
	all, err := w.store.RunnerReleases(t.Context())
	w.must(err)
	if len(all) != 1 || all[0].Trouble == "" || !all[0].CheckedAt.IsZero() {
		t.Errorf("known: %+v", all)
	}
}
