package cache_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/leader"
)

// TestRetention: what nobody finds for long goes, what is found stays.
func TestRetention(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		used, unused := w.saved(job(), "used", "used"), w.saved(job(), "unused", "unused")
		for range 4 {
			w.pass(2 * 24 * time.Hour)
			if _, ok, err := w.Find(ctx, job(), "used", nil, version); !ok || err != nil {
				w.t.Fatal(err)
			}
			w.sweep()
		}
		w.has(used.OrgID, "used")
		_, err := w.Entry(ctx, unused.ID)
		w.wants("after eight days", err, nimbus.CodeNotFound)
		st, err := w.Stats(ctx, used.OrgID)
		if err != nil || st.Evicted != 1 || st.EvictedBytes != 6 {
			w.t.Errorf("the books say %+v, %v", st, err)
		}
		w.balanced()
	})
}

// TestOrphans: content that nothing names goes once it is old, and nothing else.
func TestOrphans(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		e := w.saved(job(), "key", "a", "b")
		u, err := w.Reserve(ctx, job(), "under way", version, 0)
		w.must(err)
		w.must(w.PutBlock(ctx, u.ID, "", strings.NewReader("x"), 1))
		ours := w.stored()
		put := func(key string) {
			_, err := w.blobs.Put(ctx, key, strings.NewReader("orphan"), 10)
			w.must(err)
		}
		// Of an entry, of one that is no more, of another org by the id of one of
		// this; and what is not the cache's.
		_, name := splitKey(ours[0])
		put(fmt.Sprintf("cache/%s/%d/%s", e.OrgID, e.ID, strings.Repeat("0", 32)))
		put(fmt.Sprintf("cache/%s/%d/%s", e.OrgID, e.ID+1, strings.Repeat("f", 32)))
		put(fmt.Sprintf("cache/org_0000000000000000000000000z/%d/%s", e.ID, name))
		put("cachet/other")
		put("cache/note/read/me")
		w.sweep()
		if n := len(w.stored()); n != len(ours)+4 {
			w.t.Errorf("%d contents: young ones are gone", n)
		}
		w.pass(23 * time.Hour)
		_, err = w.blobs.Put(ctx, "cache/x/y/z", strings.NewReader(""), 1)
		w.must(err)
		w.must(w.db.TouchCacheUpload(ctx, u.ID))
		w.pass(time.Hour + time.Minute)
		w.must(w.db.TouchCacheUpload(ctx, u.ID))
		w.sweep()
		if got := w.stored(); len(got) != len(ours)+2 {
			w.t.Errorf("there are %q", got)
		}
		if got, err := w.read(e.ID, 0, -1); err != nil || got != "ab" {
			w.t.Errorf("the entry has %q, %v", got, err)
		}
		_, err = w.Commit(ctx, job(), "under way", version, 1)
		w.must(err)
		if _, err := w.blobs.Stat(ctx, "cachet/other"); err != nil {
			w.t.Errorf("what is not the cache's: %v", err)
		}
	})
}

func splitKey(key string) (folder, name string) {
	i := strings.LastIndexByte(key, '/')
	return key[:i], key[i+1:]
}

// pages lists blobs a few at a time.
type pages struct {
	cache.Blobs

	asked chan string
}

func (p pages) List(ctx context.Context, prefix, after string, most int) ([]blob.Listed, error) {
	p.asked <- after
	return p.Blobs.List(ctx, prefix, after, most)
}

// TestBooks: hits and misses by repository, lists, quotas, and what belongs to
// whom.
func TestBooks(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, other := w.t.Context(), w.org("other")
		lib := job(func(c *cache.Caller) { c.Repo = "acme/lib" })
		for i := range 5 {
			w.saved(job(), fmt.Sprint("app-", i), "1234")
		}
		w.saved(lib, "lib-0", "12")
		w.saved(job(func(c *cache.Caller) { c.OrgID = other }), "app-0", "theirs")
		for range 3 {
			_, _, err := w.Find(ctx, job(), "app-", nil, version)
			w.must(err)
			_, _, err = w.Find(ctx, lib, "app-", nil, version)
			w.must(err)
		}
		_, _, err := w.Find(ctx, job(func(c *cache.Caller) { c.Repo = "acme/new" }), "x", nil, version)
		w.must(err)
		w.must(cache.Flush(ctx, w.Service))
		w.must(cache.Flush(ctx, w.Service))
		st, err := w.Stats(ctx, nimbus.DefaultOrgID)
		w.must(err)
		if st.Entries != 6 || st.Bytes != 22 || st.Hits != 3 || st.Misses != 4 || st.Quota != 50<<30 || len(st.Repos) != 3 {
			w.t.Errorf("the org has %+v", st)
		}
		if r := st.Repos[0]; r.Repo != "acme/app" || r.Entries != 5 || r.Hits != 3 || r.Misses != 0 || r.Quota != 10<<30 || r.OwnQuota {
			w.t.Errorf("the repository has %+v", r)
		}
		if st, err := w.Stats(ctx, other); err != nil || st.Entries != 1 || st.Bytes != 6 || st.Hits != 0 {
			w.t.Errorf("the other org has %+v, %v", st, err)
		}
		if st, err := w.Stats(ctx, "org_0000000000000000000000000z"); err != nil || st.Bytes != 0 || len(st.Repos) != 0 {
			w.t.Errorf("an org that never had a cache has %+v, %v", st, err)
		}
		page, next, err := w.List(ctx, nimbus.DefaultOrgID, "acme/app", cache.Filter{Prefix: "app-", Scope: mainRef}, nimbus.PageRequest{Size: 3})
		if err != nil || len(page) != 3 || page[0].Key != "app-4" || next == "" {
			w.t.Errorf("the first page is %+v, %q, %v", page, next, err)
		}
		page, next, err = w.List(ctx, nimbus.DefaultOrgID, "acme/app", cache.Filter{Prefix: "app-"}, nimbus.PageRequest{Size: 3, Token: next})
		if err != nil || len(page) != 2 || page[1].Key != "app-0" || next != "" {
			w.t.Errorf("the second page is %+v, %q, %v", page, next, err)
		}
		for what, f := range map[string]cache.Filter{"scope": {Scope: topic}, "prefix": {Prefix: "pp"}} {
			if page, _, err := w.List(ctx, nimbus.DefaultOrgID, cache.AllRepos, f, nimbus.PageRequest{}); err != nil || len(page) != 0 {
				w.t.Errorf("by %s: %+v, %v", what, page, err)
			}
		}
		_, _, err = w.List(ctx, nimbus.DefaultOrgID, cache.AllRepos, cache.Filter{}, nimbus.PageRequest{Token: "x"})
		w.wants("a made-up token", err, nimbus.CodeInvalid)
		_, _, err = w.List(ctx, nimbus.DefaultOrgID, cache.AllRepos, cache.Filter{Prefix: "\x00"}, nimbus.PageRequest{})
		w.wants("a prefix that can't be", err, nimbus.CodeInvalid)

		admin := nimbus.Principal{Kind: nimbus.PrincipalAdmin}
		w.must(w.SetQuota(ctx, admin, nimbus.DefaultOrgID, "acme/app", 5))
		w.wants("no repository", w.SetQuota(ctx, admin, nimbus.DefaultOrgID, "x", 5), nimbus.CodeInvalid)
		_, err = w.Reserve(ctx, job(), "large", version, 6)
		w.wants("over its own quota", err, nimbus.CodeTooLarge)
		w.must(w.SetQuota(ctx, admin, nimbus.DefaultOrgID, "acme/app", -1))
		u, err := w.Reserve(ctx, job(), "large", version, 6)
		w.must(err)
		w.wants("an upload is no entry", w.Remove(ctx, nimbus.DefaultOrgID, u.ID), nimbus.CodeNotFound)
	})
}

// TestRun: what is removed goes without a sweep, counts are written at the end,
// and who leads sweeps.
func TestRun(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, stop := context.WithCancel(w.t.Context())
		defer stop()
		asked := make(chan string, 100)
		leads := make(chan struct{})
		cfg := w.cfg
		cfg.Blobs = deletes{pages{w.blobs, asked}, make(chan string, 10)}
		cfg.Lead = func(ctx context.Context, work func(context.Context)) { close(leads); work(ctx) }
		s := cache.New(cfg)
		e := w.saved(job(), "key", "content")
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
		<-ready
		<-leads
		if after := <-asked; after != "" {
			w.t.Errorf("the first sweep begins behind %q", after)
		}
		if _, ok, err := s.Find(ctx, job(func(c *cache.Caller) { c.Repo = "acme/lib" }), "key", nil, version); ok || err != nil {
			w.t.Error(err)
		}
		w.must(s.Remove(ctx, e.OrgID, e.ID))
		<-cfg.Blobs.(deletes).gone
		stop()
		w.must(<-ended)
		if st, err := w.Stats(w.t.Context(), e.OrgID); err != nil || st.Misses != 1 {
			w.t.Errorf("the books say %+v, %v", st, err)
		}
	})
}

// deletes tells what is deleted.
type deletes struct {
	cache.Blobs

	gone chan string
}

func (d deletes) Delete(ctx context.Context, key string) error {
	err := d.Blobs.Delete(ctx, key)
	d.gone <- key
	return err
}

// counted counts pins.
type counted struct {
	cache.Store

	pins int
}

func (c *counted) PinCache(ctx context.Context, id int64, keep time.Duration) (bool, error) {
	c.pins++
	return c.Store.PinCache(ctx, id, keep)
}

// TestPinsAreWrittenOnceAMinute: a hit costs no write.
func TestPinsAreWrittenOnceAMinute(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		e, cfg := w.saved(job(), "key", "content"), w.cfg
		books := &counted{Store: w.db}
		cfg.Store = books
		s := cache.New(cfg)
		for minute := 1; minute <= 3; minute++ {
			for range 5 {
				_, ok, err := s.Find(w.t.Context(), job(), "key", nil, version)
				if err != nil || !ok {
					w.t.Fatal(err)
				}
				r, err := s.Open(w.t.Context(), e, 0, -1)
				w.must(err)
				w.must(r.Close())
			}
			if books.pins != minute {
				w.t.Errorf("%d writes in %d minutes", books.pins, minute)
			}
			w.pass(time.Minute + time.Second)
		}
		if got, err := w.Entry(w.t.Context(), e.ID); err != nil || got.UsedAt.Sub(got.CreatedAt) < time.Minute {
			w.t.Errorf("it says that it was used at %s, %v", got.UsedAt, err)
		}
	})
}

// TestSweepIsFenced: a replica that leads no more gives nothing up.
func TestSweepIsFenced(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, stop := context.WithCancel(w.t.Context())
		terms, ended := make(chan context.Context, 1), make(chan struct{})
		go func() {
			defer close(ended)
			leader.Elector{Store: w.db, Name: "cache", Log: w.cfg.Log}.Run(ctx, func(ctx context.Context) { terms <- ctx; <-ctx.Done() })
		}()
		term := context.WithoutCancel(<-terms)
		u, err := w.Reserve(w.t.Context(), job(), "key", version, 0)
		w.must(err)
		w.must(w.Sweep(term))
		stop()
		<-ended
		w.pass(idle + time.Second)
		w.wants("after its term", w.Sweep(term), nimbus.CodeFenced)
		w.must(w.PutBlock(w.t.Context(), u.ID, "", strings.NewReader("x"), 1))
	})
}
