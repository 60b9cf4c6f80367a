package storetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// came is an upload of so many bytes at a place of its own, which is whole.
func (b *cacheBooks) came(name string, size int64) cache.Upload {
	b.t.Helper()
	p := cachePlace(name)
	p.Version = "saving"
	u := b.begin(p)
	b.put(u.ID, "b:"+name, size)
	b.must(b.ArrangeCache(b.t.Context(), u.ID, []string{"b:" + name}))
	return u
}

// at is what can be found at a place, nil for nothing.
func (b *cacheBooks) at(p cache.Place) *cache.Entry {
	b.t.Helper()
	e, ok, err := b.FindCache(b.t.Context(), p.OrgID, p.Repo, p.Version, []cache.Range{{Scope: p.Scope, From: p.Key, To: p.Key + "\x00"}})
	b.must(err)
	if !ok {
		return nil
	}
	return &e
}

// testCacheReplaces: an upload takes a place that is free, or that another entry
// has, in one step; or the one that is there stays, and the upload goes.
func testCacheReplaces(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	p := cachePlace("key")
	has := func(what string, id, size int64, meta string) {
		t.Helper()
		if e := b.at(p); e == nil || e.ID != id || e.Size != size || e.Meta != meta {
			t.Errorf("%s: there is %+v, want %d of %d bytes with %q", what, e, id, size, meta)
		}
		if got := b.bytes(cacheRepo); got != size {
			t.Errorf("%s: %d bytes are counted, want %d", what, got, size)
		}
	}
	gone := func(want ...int64) {
		t.Helper()
		removed, err := b.RemovedCache(ctx, 0, 10)
		b.must(err)
		var ids []int64
		for _, r := range removed {
			ids = append(ids, r.ID)
		}
		if slices.Sort(ids); !slices.Equal(ids, want) {
			t.Errorf("%d are gone, want %d", ids, want)
		}
	}
	first := b.came("first", 10)
	e, kept, loose, err := b.ReplaceCache(ctx, first.ID, 10, p, "one", cache.AgainReplaces, nil)
	if err != nil || kept || len(loose) > 0 || e.ID != first.ID || e.Place != p || e.Meta != "one" {
		t.Fatalf("%+v %t %q %v", e, kept, loose, err)
	}
	has("where none was", first.ID, 10, "one")
	if e := b.at(cache.Place{OrgID: p.OrgID, Repo: p.Repo, Scope: p.Scope, Version: "saving", Key: "first"}); e != nil {
		t.Errorf("it is found where it was saved, too: %+v", e)
	}

	second := b.came("second", 7)
	b.put(second.ID, "b:more", 3) // which is no part of it
	e, kept, loose, err = b.ReplaceCache(ctx, second.ID, 7, p, "two", cache.AgainReplaces, nil)
	if err != nil || kept || e.ID != second.ID || !slices.Equal(loose, []string{"of-more"}) {
		t.Errorf("%+v %t %q %v", e, kept, loose, err)
	}
	has("in the place of another", second.ID, 7, "two")
	gone(first.ID)

	third := b.came("third", 5)
	e, kept, _, err = b.ReplaceCache(ctx, third.ID, 5, p, "three", cache.AgainKeeps, nil)
	if err != nil || !kept || e.ID != second.ID || e.Meta != "two" {
		t.Errorf("%+v %t %v", e, kept, err)
	}
	has("where the one before is kept", second.ID, 7, "two")
	gone(first.ID, third.ID)

	fourth := b.came("fourth", 4)
	if _, _, _, err := b.ReplaceCache(ctx, fourth.ID, 4, p, "four", cache.AgainRefused, nil); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("where none may take its place: %v", err)
	}
	if _, _, _, err := b.ReplaceCache(ctx, fourth.ID, 99, p, "four", cache.AgainReplaces, nil); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("with a size that it has not: %v", err)
	}
	b.must(b.AbandonCache(ctx, fourth.ID))
	has("after refusals", second.ID, 7, "two")
	if _, _, _, err := b.ReplaceCache(ctx, fourth.ID, 4, p, "four", cache.AgainReplaces, nil); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("of an upload that is no more: %v", err)
	}
	if err := b.AbandonCache(ctx, second.ID); err != nil {
		t.Error(err)
	}
	has("after who saved it gave up", second.ID, 7, "two") // whose answer was lost

	other := cachePlace("reserved")
	held := b.begin(other)
	fifth := b.came("fifth", 1)
	if _, _, _, err := b.ReplaceCache(ctx, fifth.ID, 1, other, "", cache.AgainReplaces, nil); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("where an upload of another protocol is under way: %v", err)
	}
	b.must(b.TouchCacheUpload(ctx, held.ID)) // it goes on
}

// testCacheReplacesAtOnce has many save under one key at once: one entry is there
// in the end, and at each moment between, and the books are those of it alone.
func testCacheReplacesAtOnce(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	p := cachePlace("key")
	const workers, rounds = 6, 5
	first := b.came("first", 1)
	_, _, _, err := b.ReplaceCache(ctx, first.ID, 1, p, "", cache.AgainReplaces, nil)
	b.must(err)
	var wg, looking sync.WaitGroup
	done := make(chan struct{})
	looking.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if b.at(p) == nil {
				t.Error("at a moment there is none")
				return
			}
		}
	})
	for worker := range workers {
		wg.Go(func() {
			for i := range rounds {
				size := int64(1 + worker*rounds + i)
				u := b.came(fmt.Sprintf("%d-%d", worker, i), size)
				again := []cache.Again{cache.AgainReplaces, cache.AgainKeeps}[i%2]
				if e, kept, _, err := b.ReplaceCache(ctx, u.ID, size, p, "", again, nil); err != nil || !kept && e.Size != size || kept != (again == cache.AgainKeeps) {
					t.Errorf("%+v, kept: %t, %v", e, kept, err)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	looking.Wait()
	entries, err := b.CacheList(ctx, nimbus.DefaultOrgID, cacheRepo, cache.Filter{}, 1<<62, 10)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	all, _, err := b.CacheUsage(ctx, nimbus.DefaultOrgID, 10)
	b.must(err)
	if diff := cmp.Diff([2]int64{1, entries[0].Size}, [2]int64{all.Entries, all.Bytes}); diff != "" {
		t.Errorf("the books (-entries +books):\n%s", diff)
	}
	b.must(b.OffsetClock(ctx, time.Hour))
	if removed, err := b.RemovedCache(ctx, 0, 100); err != nil || len(removed) != workers*rounds {
		t.Errorf("%d are gone, want %d, %v", len(removed), workers*rounds, err)
	}
}
