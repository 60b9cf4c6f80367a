package cache_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// during saves a content, and calls f once it has come and is not yet there.
func (w *world) during(c cache.Caller, what cache.Saving, content string, f func()) {
	w.t.Helper()
	what.Size = int64(len(content))
	what.Still = func(context.Context) error {
		f()
		return nil
	}
	_, _, err := w.Save(w.t.Context(), c, what, strings.NewReader(content))
	w.must(err)
}

// TestUploadsAreTold: what is being saved is told by the place that it is to have,
// with the bytes that count for it, to its own org; and no more once it is an entry.
func TestUploadsAreTold(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, other := w.t.Context(), w.org("other")
		told := func(orgID string, f nimbus.CacheFilter) (all []string) {
			w.t.Helper()
			uploads, err := w.Desk().Uploads(ctx, orgID, f)
			w.must(err)
			for _, u := range uploads {
				all = append(all, fmt.Sprintf("%s %s %s %s %d %s", u.Repo, u.Scope, u.Version, u.Key, u.Bytes, u.JobID))
				if u.BegunAt.IsZero() || u.TouchedAt.Before(u.BegunAt) {
					w.t.Errorf("it began at %s, and the last byte came at %s", u.BegunAt, u.TouchedAt)
				}
			}
			return all
		}
		is := func(what string, got []string, want ...string) {
			w.t.Helper()
			if !slices.Equal(got, want) {
				w.t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		is("of nothing", told(nimbus.DefaultOrgID, nimbus.CacheFilter{}))
		u, err := w.Reserve(ctx, job(), "linux-go", version, 0)
		w.must(err)
		w.must(w.PutBlock(ctx, u.ID, "a", strings.NewReader("12345"), 5))
		w.pass(time.Millisecond) // ids grow with time
		first := "acme/app " + mainRef + " v1 linux-go 5 job_1"
		own := cache.Caller{OrgID: nimbus.DefaultOrgID, JobID: "job_2", Write: topic, Read: []string{topic}}
		w.during(own, cache.Saving{Key: "ccache/x", Version: cache.Own + "http"}, "1234567", func() {
			second := " " + topic + " " + cache.Own + "http ccache/x 7 job_2"
			is("all", told(nimbus.DefaultOrgID, nimbus.CacheFilter{}), second, first)
			is("another org's", told(other, nimbus.CacheFilter{}))
			is("a repository's", told(nimbus.DefaultOrgID, nimbus.CacheFilter{Repo: "Acme/App"}), first)
			is("the org's own jobs'", told(nimbus.DefaultOrgID, nimbus.CacheFilter{Repo: nimbus.OwnJobs}), second)
			is("by prefix", told(nimbus.DefaultOrgID, nimbus.CacheFilter{Prefix: "ccache/"}), second)
			is("by key", told(nimbus.DefaultOrgID, nimbus.CacheFilter{Key: "ccache/x"}), second)
			is("by a part of the key", told(nimbus.DefaultOrgID, nimbus.CacheFilter{Key: "ccache"}))
			is("by scope", told(nimbus.DefaultOrgID, nimbus.CacheFilter{Scope: mainRef}), first)
			is("by id", told(nimbus.DefaultOrgID, nimbus.CacheFilter{ID: u.ID}), first)
		})
		is("once one is saved", told(nimbus.DefaultOrgID, nimbus.CacheFilter{}), first)
		w.must(w.Arrange(ctx, u.ID, []string{"a"}))
		_, err = w.Commit(ctx, job(), "linux-go", version, 5)
		w.must(err)
		is("once both are", told(nimbus.DefaultOrgID, nimbus.CacheFilter{}))
		_, err = w.Desk().Uploads(ctx, nimbus.DefaultOrgID, nimbus.CacheFilter{Repo: cache.AllRepos})
		w.wants("by the sign for all", err, nimbus.CodeInvalid)
		entries, _, err := w.Desk().Entries(ctx, nimbus.DefaultOrgID, nimbus.CacheFilter{Repo: "ACME/app"}, nimbus.PageRequest{})
		if err != nil || len(entries) != 1 {
			w.t.Errorf("in other letters the repository has %d entries, %v", len(entries), err)
		}
		w.balanced()
	})
}

// TestNobodyFinishesWhatIsSaved: ids are numbers, and what comes by Save is its
// sender's alone, also for others of the same branch.
func TestNobodyFinishesWhatIsSaved(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		w.during(job(), cache.Saving{Key: "k", Version: cache.Own + "http"}, "content", func() {
			uploads, err := w.Uploads(ctx, nimbus.DefaultOrgID, cache.AllRepos, cache.Filter{})
			if err != nil || len(uploads) != 1 {
				w.t.Fatalf("%d uploads, %v", len(uploads), err)
			}
			w.wants("a part for it", w.CheckUpload(ctx, job(), uploads[0].ID), nimbus.CodeNotFound)
			_, err = w.CommitUpload(ctx, job(), uploads[0].ID, int64(len("content")))
			w.wants("its commit", err, nimbus.CodeNotFound)
		})
		e, ok, err := w.Get(ctx, job(), "k", cache.Own+"http")
		if err != nil || !ok {
			w.t.Fatalf("it is not there: %v", err)
		}
		w.wants("a part for the entry", w.CheckUpload(ctx, job(), e.ID), nimbus.CodeNotFound)
	})
}

// TestWhatIsThereIsUsed: who saves a content that is there, and is told so, finds it
// later as if it had been saved now; and another content is refused, whatever is there.
func TestWhatIsThereIsUsed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		sum := sha256.Sum256([]byte("content"))
		hash := hex.EncodeToString(sum[:])
		save := func(content string) (cache.Entry, bool, error) {
			return w.Save(ctx, job(), cache.Saving{Key: hash, Version: cache.Own + "bazel-cas", Size: int64(len(content)), Again: cache.AgainKeeps, SHA256: hash}, strings.NewReader(content))
		}
		first, _, err := save("content")
		w.must(err)
		for _, wrong := range []string{"another", "content and more", ""} {
			_, kept, err := save(wrong)
			if w.wants("another content", err, nimbus.CodeInvalid); kept {
				w.t.Error("it is told to be kept")
			}
		}
		w.pass(time.Hour)
		again, kept, err := save("content")
		if err != nil || !kept || again.ID != first.ID {
			w.t.Fatalf("%+v, kept %t, %v", again, kept, err)
		}
		e, err := w.Entry(ctx, first.ID)
		if w.must(err); e.UsedAt.Sub(first.UsedAt) < time.Hour {
			w.t.Errorf("it was last used at %s, and saved again an hour after %s", e.UsedAt, first.UsedAt)
		}
		w.sweep()
		w.balanced()
	})
}

// TestDeleteOfTheOne: what was named goes, and nothing that took its place.
func TestDeleteOfTheOne(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		save := func() cache.Entry {
			e, _, err := w.Save(ctx, job(), cache.Saving{Key: "k", Version: version, Size: 1}, strings.NewReader("x"))
			w.must(err)
			return e
		}
		is := func(id int64) func(int64) bool { return func(there int64) bool { return there == id } }
		w.wants("of nothing", w.Delete(ctx, job(), "k", version, is(1)), nimbus.CodeFenced)
		first := save()
		second := save()
		w.wants("of one that was replaced", w.Delete(ctx, job(), "k", version, is(first.ID)), nimbus.CodeFenced)
		if _, err := w.Entry(ctx, second.ID); err != nil {
			w.t.Errorf("the one that took its place: %v", err)
		}
		w.must(w.Delete(ctx, job(), "k", version, is(second.ID)))
		w.wants("of nothing", w.Delete(ctx, job(), "k", version, nil), nimbus.CodeNotFound)
	})
}
