package cache_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// TestTenants: nobody reads or writes what is not theirs.
func TestTenants(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, other := w.t.Context(), w.org("other")
		mine := w.saved(job(), "key", "mine")
		up, err := w.Reserve(ctx, job(), "key-2", version, 0)
		w.must(err)
		w.must(w.PutBlock(ctx, up.ID, "", strings.NewReader("secret"), 6))
		strangers := map[string]cache.Caller{
			"another org":        job(func(c *cache.Caller) { c.OrgID = other }),
			"another repository": job(func(c *cache.Caller) { c.Repo = "acme/application" }),
			"the org's own jobs": job(func(c *cache.Caller) { c.Repo = "" }),
			"another branch":     job(func(c *cache.Caller) { c.Write, c.Read = topic, []string{topic} }),
			"a longer branch":    job(func(c *cache.Caller) { c.Write, c.Read = mainRef+"2", []string{mainRef + "2"} }),
			"a shorter branch":   job(func(c *cache.Caller) { c.Write, c.Read = "refs/heads/mai", []string{"refs/heads/mai"} }),
			"a fork's pull":      job(func(c *cache.Caller) { c.Write, c.Read = "refs/pull/1/merge", []string{"refs/pull/1/merge"} }),
		}
		for who, c := range strangers {
			for _, key := range []string{"key", "k", "key-2"} {
				if e, ok, err := w.Find(ctx, c, key, []string{"k"}, version); ok || err != nil {
					w.t.Errorf("%s finds %+v by %q, %v", who, e, key, err)
				}
			}
			_, err := w.CommitUpload(ctx, c, up.ID, 6)
			w.wants(who+" commits by id", err, nimbus.CodeNotFound)
			_, err = w.Commit(ctx, c, "key-2", version, 6)
			w.wants(who+" commits by place", err, nimbus.CodeNotFound)
		}
		// Each has the same key for itself.
		for who, c := range strangers {
			theirs, err := w.save(c, "key", who)
			w.must(err)
			e, ok, err := w.Find(ctx, c, "key", nil, version)
			if got, _ := w.read(e.ID, 0, -1); err != nil || !ok || e.ID != theirs.ID || got != who {
				w.t.Errorf("%s finds %q, %v", who, got, err)
			}
		}
		if e, ok, err := w.Find(ctx, job(), "key", nil, version); err != nil || !ok || e.ID != mine.ID {
			w.t.Errorf("the first finds %+v, %v", e, err)
		}
		w.wants("another org removes it", w.Remove(ctx, other, mine.ID), nimbus.CodeNotFound)
	})
}

// TestForkWritesNowhereElse: a pull request from a fork reads the base's entries
// and can't take their places.
func TestForkWritesNowhereElse(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		fork := job(func(c *cache.Caller) { c.Write, c.Read = "refs/pull/7/merge", []string{"refs/pull/7/merge", mainRef} })
		base := w.saved(job(), "deps-1", "good")
		w.saved(fork, "deps-2", "evil")
		w.saved(fork, "deps-1", "evil")
		if e, ok, err := w.Find(ctx, job(), "deps-", []string{"deps-2"}, version); err != nil || !ok || e.ID != base.ID {
			w.t.Errorf("main finds %+v, %v", e, err)
		}
		if e, _, err := w.Find(ctx, fork, "deps-1", nil, version); err != nil || e.Scope != fork.Write {
			w.t.Errorf("the fork finds %+v, %v", e, err)
		}
		reader := job(func(c *cache.Caller) { c.Write = "" })
		_, err := w.Reserve(ctx, reader, "deps-3", version, 1)
		w.wants("who only reads reserves", err, nimbus.CodeForbidden)
		if err == nil || !strings.HasPrefix(err.Error(), "cache write denied:") {
			w.t.Errorf("clients show no other text: %v", err)
		}
		_, err = w.Commit(ctx, reader, "deps-1", version, 4)
		w.wants("who only reads commits", err, nimbus.CodeForbidden)
		_, err = w.CommitUpload(ctx, reader, base.ID, 4)
		w.wants("who only reads commits by id", err, nimbus.CodeForbidden)
		if _, ok, err := w.Find(ctx, reader, "deps-1", nil, version); !ok || err != nil {
			w.t.Errorf("who only reads finds nothing: %v", err)
		}
	})
}

// TestNames: what can't be kept the same on both engines is refused; everything
// else is only text.
func TestNames(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		for _, bad := range []string{"", "a\x00b", "a\nb", "a\rb", "a\u0085b", "\xff", "a\xc3", strings.Repeat("k", 513), "\x7f"} {
			_, err := w.Reserve(ctx, job(), bad, version, 1)
			w.wants(fmt.Sprintf("key %.20q", bad), err, nimbus.CodeInvalid)
			_, err = w.Reserve(ctx, job(), "key", bad, 1)
			w.wants(fmt.Sprintf("version %.20q", bad), err, nimbus.CodeInvalid)
			_, _, err = w.Find(ctx, job(), bad, nil, version)
			w.wants(fmt.Sprintf("look for %.20q", bad), err, nimbus.CodeInvalid)
			_, _, err = w.Find(ctx, job(), "key", []string{bad}, version)
			w.wants(fmt.Sprintf("restore %.20q", bad), err, nimbus.CodeInvalid)
			_, err = w.Commit(ctx, job(), bad, version, 1)
			w.wants(fmt.Sprintf("commit %.20q", bad), err, nimbus.CodeInvalid)
		}
		_, _, err := w.Find(ctx, job(), "key", make([]string, cache.MaxKeys), version)
		w.wants("too many keys", err, nimbus.CodeInvalid)
		_, _, err = w.Find(ctx, job(func(c *cache.Caller) { c.Read = make([]string, cache.MaxScopes+1) }), "key", nil, version)
		w.wants("too many scopes", err, nimbus.CodeInvalid)
		for what, c := range map[string]cache.Caller{
			"no org":      job(func(c *cache.Caller) { c.OrgID = "" }),
			"org as path": job(func(c *cache.Caller) { c.OrgID = "../org" }),
			"repo":        job(func(c *cache.Caller) { c.Repo = "a/../b" }),
			"all repos":   job(func(c *cache.Caller) { c.Repo = cache.AllRepos }),
			"scope":       job(func(c *cache.Caller) { c.Write = "refs/heads/\x00" }),
		} {
			_, err := w.Reserve(ctx, c, "key", version, 1)
			w.wants(what, err, nimbus.CodeInvalid)
		}
		plain := []string{"../../../etc/passwd", "..%2f..%2fetc", `..\..\x`, "/abs", ".", "..", "a//b", "'; DROP TABLE cache_entries; --", "%", "_", "*", "$1", "{}", "a b", "\u202e", "😀", strings.Repeat("k", 512)}
		for _, key := range plain {
			w.saved(job(), key, "of "+key)
		}
		for _, key := range plain {
			e, ok, err := w.Find(ctx, job(), key, nil, version)
			if got, _ := w.read(e.ID, 0, -1); err != nil || !ok || e.Key != key || got != "of "+key {
				w.t.Errorf("%.40q is %q, %v", key, got, err)
			}
		}
		for _, b := range w.stored() {
			if !strings.HasPrefix(b, "cache/"+nimbus.DefaultOrgID+"/") {
				w.t.Errorf("a content is at %q", b)
			}
		}
	})
}
