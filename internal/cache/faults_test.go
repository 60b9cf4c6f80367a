package cache_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// faults fails one call to the store or the blobs, or all from one on, as it is
// when a process is killed.
type faults struct {
	calls int
	at    int  // which one
	done  bool // it is done all the same, only its answer is lost
	dead  bool // all after it fail
}

var errBroken = &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "broken on purpose"}

func (f *faults) do(call func() error) error {
	f.calls++
	switch {
	case f.calls == f.at && f.done:
		if err := call(); err != nil {
			return err
		}
		return errBroken
	case f.calls == f.at, f.calls > f.at && f.dead && f.at > 0:
		return errBroken
	}
	return call()
}

// The store and the blobs with faults. What is not here fails nothing.
type (
	faultyStore struct {
		cache.Store

		*faults
	}
	faultyBlobs struct {
		cache.Blobs

		*faults
	}
)

func (s faultyStore) ReserveCache(ctx context.Context, p cache.Place, jobID string, size int64, l cache.Limits) (u cache.Upload, err error) {
	err = s.do(func() error { u, err = s.Store.ReserveCache(ctx, p, jobID, size, l); return err })
	return u, err
}

func (s faultyStore) ClaimCacheBytes(ctx context.Context, id, n int64, l cache.Limits) (p cache.Place, evicted int, err error) {
	err = s.do(func() error { p, evicted, err = s.Store.ClaimCacheBytes(ctx, id, n, l); return err })
	return p, evicted, err
}

func (s faultyStore) FreeCacheBytes(ctx context.Context, id, n int64) error {
	return s.do(func() error { return s.Store.FreeCacheBytes(ctx, id, n) })
}

func (s faultyStore) PutCacheBlock(ctx context.Context, id int64, b cache.Block, claimed int64) (loose string, err error) {
	err = s.do(func() error { loose, err = s.Store.PutCacheBlock(ctx, id, b, claimed); return err })
	return loose, err
}

func (s faultyStore) ArrangeCache(ctx context.Context, id int64, blocks []string) error {
	return s.do(func() error { return s.Store.ArrangeCache(ctx, id, blocks) })
}

func (s faultyStore) CommitCache(ctx context.Context, id, size int64) (e cache.Entry, loose []string, err error) {
	err = s.do(func() error { e, loose, err = s.Store.CommitCache(ctx, id, size); return err })
	return e, loose, err
}

func (s faultyStore) ReplaceCache(ctx context.Context, id, size int64, p cache.Place, meta string, again cache.Again, match func(int64) bool) (e cache.Entry, kept bool, loose []string, err error) {
	err = s.do(func() error {
		e, kept, loose, err = s.Store.ReplaceCache(ctx, id, size, p, meta, again, match)
		return err
	})
	return e, kept, loose, err
}

func (s faultyStore) AbandonCache(ctx context.Context, id int64) error {
	return s.do(func() error { return s.Store.AbandonCache(ctx, id) })
}

func (s faultyStore) CacheEntry(ctx context.Context, id int64) (e cache.Entry, err error) {
	err = s.do(func() error { e, err = s.Store.CacheEntry(ctx, id); return err })
	return e, err
}

func (s faultyStore) CacheAt(ctx context.Context, p cache.Place) (id int64, err error) {
	err = s.do(func() error { id, err = s.Store.CacheAt(ctx, p); return err })
	return id, err
}

func (s faultyStore) PinCache(ctx context.Context, id int64, keep time.Duration) (ok bool, err error) {
	err = s.do(func() error { ok, err = s.Store.PinCache(ctx, id, keep); return err })
	return ok, err
}

func (s faultyStore) GiveUpCache(ctx context.Context, idle time.Duration) (n int, err error) {
	err = s.do(func() error { n, err = s.Store.GiveUpCache(ctx, idle); return err })
	return n, err
}

func (s faultyStore) ForgetUnusedCache(ctx context.Context, unused time.Duration) (n int, err error) {
	err = s.do(func() error { n, err = s.Store.ForgetUnusedCache(ctx, unused); return err })
	return n, err
}

func (s faultyStore) TrimCache(ctx context.Context, l cache.Limits) (n int, err error) {
	err = s.do(func() error { n, err = s.Store.TrimCache(ctx, l); return err })
	return n, err
}

func (s faultyStore) RemovedCache(ctx context.Context, after int64, most int) (gone []cache.Removed, err error) {
	err = s.do(func() error { gone, err = s.Store.RemovedCache(ctx, after, most); return err })
	return gone, err
}

func (s faultyStore) CacheBlobNames(ctx context.Context, id int64, most int) (names []string, err error) {
	err = s.do(func() error { names, err = s.Store.CacheBlobNames(ctx, id, most); return err })
	return names, err
}

func (s faultyStore) ForgetCacheBlobs(ctx context.Context, id int64, upTo string) error {
	return s.do(func() error { return s.Store.ForgetCacheBlobs(ctx, id, upTo) })
}

func (s faultyStore) ForgetCache(ctx context.Context, id int64) error {
	return s.do(func() error { return s.Store.ForgetCache(ctx, id) })
}

func (s faultyStore) NamedCacheBlobs(ctx context.Context, orgID string, id int64, first, last string) (names []string, err error) {
	err = s.do(func() error { names, err = s.Store.NamedCacheBlobs(ctx, orgID, id, first, last); return err })
	return names, err
}

func (s faultyStore) RemoveCache(ctx context.Context, orgID string, id int64) error {
	return s.do(func() error { return s.Store.RemoveCache(ctx, orgID, id) })
}

func (b faultyBlobs) Put(ctx context.Context, key string, r io.Reader, most int64) (info blob.Info, err error) {
	err = b.do(func() error { info, err = b.Blobs.Put(ctx, key, r, most); return err })
	return info, err
}

func (b faultyBlobs) Delete(ctx context.Context, key string) error {
	return b.do(func() error { return b.Blobs.Delete(ctx, key) })
}

func (b faultyBlobs) List(ctx context.Context, prefix, after string, most int) (page []blob.Listed, err error) {
	err = b.do(func() error { page, err = b.Blobs.List(ctx, prefix, after, most); return err })
	return page, err
}

// TestFaults breaks each call that is made for saving, replacing, evicting,
// removing and sweeping, in four ways. Whatever was acknowledged is there and
// whole; what is left beside it a sweep removes; the books are right.
func TestFaults(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ways := []faults{{done: true}, {dead: true}, {}, {done: true, dead: true}}
		if w.postgres { // the same calls in the same order, and much slower
			ways = ways[:2]
		}
		for _, way := range ways {
			for n := 1; ; n++ {
				f := way
				f.at = n
				w.scenario(&f, fmt.Sprintf("%t %t %d", way.done, way.dead, n))
				if f.calls < n {
					if n < 30 {
						w.t.Errorf("only %d calls were tried", n)
					}
					break
				}
				if w.t.Failed() {
					w.t.Fatalf("broken at call %d: %+v", n, way)
				}
			}
		}
	})
}

func (w *world) scenario(f *faults, name string) {
	w.t.Helper()
	ctx := w.t.Context()
	cfg := w.cfg
	cfg.Limits = cache.Limits{Idle: idle, Repo: 40}
	steady := &world{Service: cache.New(cfg), t: w.t, db: w.db, blobs: w.blobs, cfg: cfg}
	victim := steady.saved(job(), name+" victim", sized(25))
	removed := steady.saved(job(), name+" removed", "gone")
	left, err := steady.Reserve(ctx, job(), name+" left", version, 0)
	w.must(err)
	w.must(steady.PutBlock(ctx, left.ID, "", strings.NewReader("left"), 4))
	w.pass(idle + time.Minute)

	cfg.Store, cfg.Blobs = faultyStore{w.db, f}, faultyBlobs{w.blobs, f}
	broken := cache.New(cfg)
	acknowledged := w.savesSomehow(broken, name)
	removal := broken.Remove(ctx, removed.OrgID, removed.ID)
	_ = broken.Sweep(ctx) // it fails, or doesn't

	w.pass(25 * time.Hour)
	w.must(steady.Sweep(ctx)) // by the process that is started after it
	steady.balanced()
	there := map[string]bool{}
	for _, e := range steady.entries(nimbus.DefaultOrgID) {
		there[e.Key] = true
	}
	switch {
	case acknowledged != there[name] && acknowledged:
		w.t.Errorf("%s: it was acknowledged, and is not there", name)
	case there[name]:
		if e, ok, err := steady.Find(ctx, job(), name, nil, version); err != nil || !ok {
			w.t.Errorf("%s: it is not found: %v", name, err)
		} else if got, err := w.read(e.ID, 0, -1); err != nil || got != "hello wide world" {
			w.t.Errorf("%s: it reads back as %q, %v", name, got, err)
		}
	}
	if removal == nil && there[removed.Key] {
		w.t.Errorf("%s: what was removed is there", name)
	}
	if there[name+" left"] || there[victim.Key] && acknowledged {
		w.t.Errorf("%s: there are %v", name, there)
	}
	for _, e := range steady.entries(nimbus.DefaultOrgID) {
		w.must(steady.Remove(ctx, e.OrgID, e.ID))
	}
	w.pass(10 * time.Minute)
	w.must(steady.Sweep(ctx))
	if n := len(w.stored()); n != 0 {
		w.t.Errorf("%s: %d contents are left", name, n)
	}
}

// savesSomehow saves an entry as a client does, each call up to twice.
func (w *world) savesSomehow(s *cache.Service, key string) (acknowledged bool) {
	ctx := w.t.Context()
	twice := func(call func() error) bool {
		for range 2 {
			if call() == nil {
				return true
			}
		}
		return false
	}
	var u cache.Upload
	put := func(id, content string) bool {
		return twice(func() error { return s.PutBlock(ctx, u.ID, id, strings.NewReader(content), int64(len(content))) })
	}
	return twice(func() (err error) { u, err = s.Reserve(ctx, job(), key, version, 16); return err }) &&
		put("b", "not this") && put("b", "wide ") && put("a", "hello ") && put("loose", "x") && put("c", "world") &&
		twice(func() error { return s.Arrange(ctx, u.ID, []string{"a", "b", "c"}) }) &&
		twice(func() error { _, err := s.Commit(ctx, job(), key, version, 16); return err })
}

// deafStore writes blocks, and its answers are lost.
type deafStore struct{ cache.Store }

func (s deafStore) PutCacheBlock(ctx context.Context, id int64, b cache.Block, claimed int64) (string, error) {
	if loose, err := s.Store.PutCacheBlock(ctx, id, b, claimed); err != nil {
		return loose, err
	}
	return "", errBroken
}

// TestLostAnswer: a block of which nobody knows whether it was written is whole if
// it was.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, cfg := w.t.Context(), w.cfg
		cfg.Store = deafStore{w.db}
		deaf := cache.New(cfg)
		u, err := deaf.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		w.wants("the answer is lost", deaf.PutBlock(ctx, u.ID, "", strings.NewReader("content"), 7), nimbus.CodeUnavailable)
		if st, err := w.Stats(ctx, nimbus.DefaultOrgID); err != nil || st.Bytes != 7 {
			w.t.Errorf("%d bytes are counted, %v", st.Bytes, err)
		}
		_, err = w.Commit(ctx, job(), "key", version, 7)
		w.must(err)
		w.balanced()
	})
}
