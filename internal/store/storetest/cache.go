package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// CacheStore is what is tried of caches.
type CacheStore interface {
	cache.Store
	OffsetClock(ctx context.Context, by time.Duration) error
	CreateOrg(ctx context.Context, o nimbus.Org, e nimbus.AuditEvent) error
}

// RunCache tries what the cache relies on of stores that open returns, each new
// and empty.
func RunCache(t *testing.T, open func(t *testing.T) CacheStore) {
	for name, test := range map[string]func(*testing.T, *cacheBooks){
		"compares keys by bytes":                  testCacheBytes,
		"counts bytes at every level":             testCacheCounts,
		"makes room by many small ones":           testCacheSmall,
		"gives ids that fit a number and grow":    testCacheIDs,
		"pins what is there alone":                testCachePins,
		"finds the segment of a byte":             testCacheSegments,
		"holds its books with all at once":        testCacheAtOnce,
		"gives back no more than an upload has":   testCacheFrees,
		"bounds the blocks and bytes of an entry": testCacheBounds,
		"keeps what hosts are asked for":          testCacheWarm,
		"replaces what has a place":               testCacheReplaces,
		"replaces at once":                        testCacheReplacesAtOnce,
		"lists uploads, and counts their blocks":  testCacheUploads,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &cacheBooks{CacheStore: open(t), t: t})
		})
	}
}

// cacheBooks is a store with shortcuts for tests.
type cacheBooks struct {
	CacheStore
	t *testing.T
}

const cacheRepo = "acme/app"

func (b *cacheBooks) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func cachePlace(key string) cache.Place {
	return cache.Place{OrgID: nimbus.DefaultOrgID, Repo: cacheRepo, Scope: "refs/heads/main", Version: "v", Key: key}
}

func roomy() cache.Limits { return cache.Limits{}.WithDefaults() }

func (b *cacheBooks) begin(p cache.Place) cache.Upload {
	b.t.Helper()
	u, err := b.ReserveCache(b.t.Context(), p, "job_1", 0, roomy())
	b.must(err)
	return u
}

// put writes a block whose bytes were claimed.
func (b *cacheBooks) put(id int64, block string, size int64) {
	b.t.Helper()
	_, _, err := b.ClaimCacheBytes(b.t.Context(), id, size, roomy())
	b.must(err)
	_, err = b.PutCacheBlock(b.t.Context(), id, cache.Block{ID: block, Name: "of-" + strings.TrimPrefix(block, "b:"), Size: size, SHA256: "sum"}, size)
	b.must(err)
}

// save makes an entry of one block.
func (b *cacheBooks) save(p cache.Place, size int64) cache.Entry {
	b.t.Helper()
	u := b.begin(p)
	b.put(u.ID, "b:", size)
	e, loose, err := b.CommitCache(b.t.Context(), u.ID, size)
	b.must(err)
	if len(loose) > 0 || e.ID != u.ID || e.Place != p || e.Size != size || !e.UsedAt.Equal(e.CreatedAt) {
		b.t.Errorf("it is committed as %+v, without %q", e, loose)
	}
	return e
}

func (b *cacheBooks) bytes(repo string) int64 {
	b.t.Helper()
	all, repos, err := b.CacheUsage(b.t.Context(), nimbus.DefaultOrgID, 10)
	b.must(err)
	for _, u := range append(repos, all) {
		if u.Repo == repo {
			return u.Bytes
		}
	}
	return 0
}

func testCacheBytes(t *testing.T, b *cacheBooks) {
	for _, key := range []string{"a", "A", "a\x7f", "aé", "aa", "a-", "a ", "b", "Ä", "ä", "日本", "日"} {
		b.save(cachePlace(key), 1)
	}
	for _, c := range []struct{ from, to, want string }{
		{"a", "a\x00", "a"}, {"A", "A\x00", "A"}, {"a\x7f", "a\x80", "a\x7f"}, {"a\x7f", "b", "aé"}, {"aa", "ab", "aa"}, {"a ", "a!", "a "},
		{"Ä", "Ä\x00", "Ä"}, {"日", "日\x00", "日"}, {"日本", "日\xff", "日本"}, {"B", "a", ""}, {"c", "c\xff", ""},
	} {
		e, ok, err := b.FindCache(t.Context(), nimbus.DefaultOrgID, cacheRepo, "v", []cache.Range{{Scope: "refs/heads/main", From: c.from, To: c.to}})
		if err != nil || ok != (c.want != "") || e.Key != c.want {
			t.Errorf("from %q to %q there is %q, %v; want %q", c.from, c.to, e.Key, err, c.want)
		}
	}
	in := []cache.Range{{Scope: "refs/heads/none", From: "a", To: "b"}, {Scope: "refs/heads/main", From: "x", To: "y"}, {Scope: "refs/heads/main", From: "b", To: "c"}, {Scope: "refs/heads/main", From: "a", To: "b"}}
	if e, ok, err := b.FindCache(t.Context(), nimbus.DefaultOrgID, cacheRepo, "v", in); err != nil || !ok || e.Key != "b" {
		t.Errorf("the first of four ranges has %q, %v", e.Key, err)
	}
}

func testCacheUploads(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	other := cachePlace("other")
	other.Repo = ""
	first, second := b.begin(cachePlace("first")), b.begin(other)
	b.save(cachePlace("entry"), 3)
	b.put(first.ID, "b:1", 5)
	b.put(first.ID, "b:2", 7)
	b.put(first.ID, "b:2", 7)
	for repo, want := range map[string][]cache.Upload{cache.AllRepos: {second, first}, "": {second}, cacheRepo: {first}, "acme/none": {}} {
		uploads, err := b.CacheUploads(ctx, nimbus.DefaultOrgID, repo, 10)
		b.must(err)
		got := map[int64]cache.Uploading{}
		for _, u := range uploads {
			got[u.ID] = u
		}
		if len(uploads) != len(want) || !slices.IsSortedFunc(uploads, func(x, y cache.Uploading) int { return int(y.ID - x.ID) }) {
			t.Errorf("of %q: %+v, want %+v", repo, uploads, want)
		}
		for _, u := range want {
			if g := got[u.ID]; g.Place != u.Place || g.JobID != "job_1" || !g.CreatedAt.Equal(u.CreatedAt) || g.TouchedAt.Before(u.CreatedAt) || u.ID == first.ID && g.Bytes != 12 {
				t.Errorf("of %q: %+v, want %+v", repo, g, u)
			}
		}
	}
	if uploads, err := b.CacheUploads(ctx, nimbus.DefaultOrgID, cache.AllRepos, 1); err != nil || len(uploads) != 1 {
		t.Errorf("of all one is asked for: %+v, %v", uploads, err)
	}
	if n, err := b.CacheBlocks(ctx, first.ID); err != nil || n != 2 {
		t.Errorf("%d blocks came, %v, want 2", n, err)
	}
	b.must(b.AbandonCache(ctx, first.ID))
	if _, err := b.CacheBlocks(ctx, first.ID); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("of one that is over: %v", err)
	}
}

func testCacheCounts(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	other := cachePlace("key")
	other.Repo = ""
	b.save(other, 7)
	u := b.begin(cachePlace("key"))
	want := func(repo, org int64) {
		t.Helper()
		if got := [2]int64{b.bytes(cacheRepo), b.bytes(cache.AllRepos)}; got != [2]int64{repo, org} {
			t.Errorf("%d bytes are counted, want %d and %d", got, repo, org)
		}
	}
	want(0, 7)
	_, _, err := b.ClaimCacheBytes(ctx, u.ID, 100, roomy())
	b.must(err)
	want(100, 107)
	loose, err := b.PutCacheBlock(ctx, u.ID, cache.Block{ID: "b:1", Name: "one", Size: 60}, 100)
	if err != nil || loose != "" {
		t.Errorf("%q, %v", loose, err)
	}
	want(60, 67)
	_, _, err = b.ClaimCacheBytes(ctx, u.ID, 30, roomy())
	b.must(err)
	loose, err = b.PutCacheBlock(ctx, u.ID, cache.Block{ID: "b:1", Name: "two", Size: 30}, 30)
	if err != nil || loose != "one" {
		t.Errorf("in the place of one: %q, %v", loose, err)
	}
	want(30, 37)
	_, _, err = b.ClaimCacheBytes(ctx, u.ID, 500, roomy()) // of a block that never comes
	b.must(err)
	b.must(b.ArrangeCache(ctx, u.ID, []string{"b:1"}))
	_, _, err = b.CommitCache(ctx, u.ID, 30)
	b.must(err)
	want(30, 37)
	b.must(b.RemoveCache(ctx, nimbus.DefaultOrgID, u.ID))
	want(0, 7)
	idle := b.begin(cachePlace("idle"))
	b.put(idle.ID, "b:", 11)
	want(11, 18)
	b.must(b.OffsetClock(ctx, time.Hour))
	if n, err := b.GiveUpCache(ctx, time.Minute); err != nil || n != 1 {
		t.Errorf("%d uploads are given up, %v", n, err)
	}
	want(0, 7)
	if gone, err := b.RemovedCache(ctx, 0, 10); err != nil || len(gone) != 2 {
		t.Errorf("%+v are gone, %v", gone, err)
	}
}

// testCacheSmall: more entries have to go than one transaction takes.
func testCacheSmall(t *testing.T, b *cacheBooks) {
	const small = 300
	for i := range small {
		b.save(cachePlace(fmt.Sprintf("small-%d", i)), 1)
	}
	l := roomy()
	l.Repo = small
	u := b.begin(cachePlace("large"))
	_, evicted, err := b.ClaimCacheBytes(t.Context(), u.ID, small-1, l)
	if err != nil || evicted != small-1 {
		t.Errorf("%d made room, %v", evicted, err)
	}
	if got := b.bytes(cacheRepo); got != small {
		t.Errorf("%d bytes are counted", got)
	}
	left, err := b.CacheList(t.Context(), nimbus.DefaultOrgID, cacheRepo, cache.Filter{}, 1<<62, 10)
	if err != nil || len(left) != 1 || left[0].Key != fmt.Sprintf("small-%d", small-1) {
		t.Errorf("there are %+v, %v", left, err)
	}

	for i := range small {
		b.save(cachePlace(fmt.Sprintf("again-%d", i)), 1)
	}
	fewer := roomy()
	fewer.Entries = 5
	if n, err := b.TrimCache(t.Context(), fewer); err != nil || n != small+2-5 {
		t.Errorf("%d go where there are to be fewer, %v", n, err)
	}
}

func testCacheIDs(t *testing.T, b *cacheBooks) {
	var ids []int64
	for i := range 20 {
		u := b.begin(cachePlace(fmt.Sprint(i)))
		ids = append(ids, u.ID)
		b.must(b.OffsetClock(t.Context(), time.Duration(i+1)*time.Second))
	}
	if !slices.IsSorted(ids) || ids[0] <= 0 || ids[19] >= 1<<53 {
		t.Errorf("the ids are %d", ids)
	}
}

func testCachePins(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	e, u := b.save(cachePlace("entry"), 10), b.begin(cachePlace("upload"))
	pinned := func(id int64, want bool) {
		t.Helper()
		if ok, err := b.PinCache(ctx, id, time.Minute); err != nil || ok != want {
			t.Errorf("pinned: %t, %v", ok, err)
		}
	}
	pinned(e.ID, true)
	pinned(u.ID, false)
	pinned(e.ID+u.ID, false)
	l := roomy()
	l.Org = 15
	_, _, err := b.ClaimCacheBytes(ctx, u.ID, 10, l)
	if nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
		t.Errorf("what is pinned makes room: %v", err)
	}
	b.must(b.RemoveCache(ctx, nimbus.DefaultOrgID, e.ID))
	pinned(e.ID, false)
	b.must(b.KeepCache(ctx, e.ID, 2*time.Minute))
	b.must(b.KeepCache(ctx, e.ID, time.Minute)) // makes it no shorter
	b.must(b.OffsetClock(ctx, 90*time.Second))
	if gone, err := b.RemovedCache(ctx, 0, 10); err != nil || len(gone) != 0 {
		t.Errorf("what is read may go: %+v, %v", gone, err)
	}
	b.must(b.OffsetClock(ctx, 3*time.Minute))
	gone, err := b.RemovedCache(ctx, 0, 10)
	if diff := cmp.Diff([]cache.Removed{{ID: e.ID, OrgID: nimbus.DefaultOrgID}}, gone); diff != "" || err != nil {
		t.Errorf("gone (-want +got): %v\n%s", err, diff)
	}
	b.must(b.ForgetCacheBlobs(ctx, e.ID, "of-"))
	b.must(b.ForgetCache(ctx, e.ID))
	b.must(b.ForgetCache(ctx, e.ID))
	b.must(b.ForgetCache(ctx, u.ID)) // does nothing to what is not removed
	b.must(b.TouchCacheUpload(ctx, u.ID))
}

func testCacheSegments(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	u := b.begin(cachePlace("key"))
	for block, size := range map[string]int64{"b:x": 0, "b:y": 10, "b:z": 0, "b:a": 5} {
		b.put(u.ID, block, size)
	}
	b.must(b.ArrangeCache(ctx, u.ID, []string{"b:x", "b:y", "b:z", "b:a"}))
	digest := transfer.NewDigest()
	digest.Add(10, "sum")
	digest.Add(5, "sum")
	for _, which := range []string{"a commit", "the same again"} {
		if e, _, err := b.CommitCache(ctx, u.ID, 15); err != nil || e.Digest != digest.String() {
			t.Errorf("%s: the blocks hash to %q, %v", which, e.Digest, err)
		}
	}
	for offset, first := range map[int64]string{0: "of-y", 9: "of-y", 10: "of-a", 14: "of-a"} {
		segments, err := b.CacheSegments(ctx, u.ID, offset, 10)
		if err != nil || len(segments) == 0 || segments[0].Blob != first {
			t.Errorf("byte %d is in %+v, %v", offset, segments, err)
		}
	}
	names, err := b.NamedCacheBlobs(ctx, nimbus.DefaultOrgID, u.ID, "of-x", "of-y")
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"of-x", "of-y"}) {
		t.Errorf("named are %q, %v", names, err)
	}
	if names, err := b.NamedCacheBlobs(ctx, "org_other", u.ID, "a", "z"); err != nil || len(names) > 0 {
		t.Errorf("another org names %q, %v", names, err)
	}
}

// testCacheAtOnce has everything that changes the books done at once: no two wait
// for each other for ever, and in the end the books are right.
func testCacheAtOnce(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	orgs := []string{nimbus.DefaultOrgID, "org_0000000000000000000000000a", "org_0000000000000000000000000b"}
	for _, id := range orgs[1:] {
		b.must(b.CreateOrg(ctx, nimbus.Org{ID: id, Name: id[len(id)-1:]}, nimbus.AuditEvent{OrgID: id, Action: "org.create", Outcome: nimbus.AuditAllowed}))
	}
	l := roomy()
	l.Repo, l.Org, l.Total = 30, 40, 80
	var wg sync.WaitGroup
	for worker := range 6 {
		wg.Go(func() {
			for i := range 12 {
				p := cachePlace(fmt.Sprintf("%d-%d", worker, i))
				p.OrgID, p.Repo = orgs[(worker+i)%len(orgs)], []string{cacheRepo, "acme/lib", ""}[i%3]
				if err := b.churn(ctx, p, l, i); err != nil {
					t.Errorf("%+v: %v", p, err)
				}
			}
		})
	}
	wg.Wait()
	b.must(b.OffsetClock(ctx, 24*time.Hour))
	_, err := b.GiveUpCache(ctx, time.Minute)
	b.must(err)
	for _, org := range orgs {
		all, repos, err := b.CacheUsage(ctx, org, 10)
		b.must(err)
		entries, err := b.CacheList(ctx, org, cache.AllRepos, cache.Filter{}, 1<<62, 1000)
		b.must(err)
		bytes, of := int64(0), map[string]int64{}
		for _, e := range entries {
			bytes, of[e.Repo] = bytes+e.Size, of[e.Repo]+e.Size
		}
		if all.Bytes != bytes || all.Entries != int64(len(entries)) {
			t.Errorf("%s has %d entries of %d bytes, and the books say %+v", org, len(entries), bytes, all)
		}
		for _, u := range repos {
			if u.Bytes != of[u.Repo] {
				t.Errorf("%q has %d bytes, and the books say %+v", u.Repo, of[u.Repo], u)
			}
		}
	}
}

func (b *cacheBooks) churn(ctx context.Context, p cache.Place, l cache.Limits, i int) error {
	u, err := b.ReserveCache(ctx, p, "", 0, l)
	if err != nil {
		return err
	}
	if _, _, err := b.ClaimCacheBytes(ctx, u.ID, 10, l); nimbus.ErrorCode(err) == nimbus.CodeTooLarge {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := b.PutCacheBlock(ctx, u.ID, cache.Block{ID: "b:", Name: "name", Size: int64(i % 10)}, 10); err != nil {
		return err
	}
	_, trimmed := b.TrimCache(ctx, l)
	err = errors.Join(trimmed, b.CountCacheUse(ctx, p.OrgID, p.Repo, cache.Use{Hits: 1, Misses: 1}))
	if i%4 == 0 {
		return err // it is left
	}
	_, _, committed := b.CommitCache(ctx, u.ID, int64(i%10))
	if i%4 == 1 {
		if removed := b.RemoveCache(ctx, p.OrgID, u.ID); nimbus.ErrorCode(removed) != nimbus.CodeNotFound { // it may have made room
			err = errors.Join(err, removed)
		}
	}
	return errors.Join(err, committed)
}

func testCacheFrees(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	u := b.begin(cachePlace("key"))
	_, _, err := b.ClaimCacheBytes(ctx, u.ID, 10, roomy())
	b.must(err)
	b.must(b.FreeCacheBytes(ctx, u.ID, 4))
	b.must(b.FreeCacheBytes(ctx, u.ID, 100))
	b.must(b.FreeCacheBytes(ctx, u.ID+1, 100)) // one that is no more has given all back
	if got := b.bytes(cacheRepo); got != 0 {
		t.Errorf("%d bytes are counted", got)
	}
}

func testCacheBounds(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	u := b.begin(cachePlace("key"))
	l := roomy()
	l.Entry = 10
	_, _, err := b.ClaimCacheBytes(ctx, u.ID, 10, l)
	b.must(err)
	if _, _, err := b.ClaimCacheBytes(ctx, u.ID, 1, l); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
		t.Errorf("more than an entry may have: %v", err)
	}
	if err := b.ArrangeCache(ctx, u.ID, []string{"b:none"}); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a block that did not come: %v", err)
	}
	if _, _, err := b.CommitCache(ctx, u.ID, 1); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("an empty upload of one byte: %v", err)
	}
}
