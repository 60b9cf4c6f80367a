package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// limited is the same cache with other limits.
func (w *world) limited(l cache.Limits) *world {
	cfg := w.cfg
	l.Idle = idle
	cfg.Limits = l
	return &world{Service: cache.New(cfg), t: w.t, db: w.db, blobs: w.blobs, cfg: cfg}
}

// keys are those of an org's entries, sorted.
func (w *world) keys(orgID string) (keys []string) {
	w.t.Helper()
	for _, e := range w.entries(orgID) {
		keys = append(keys, e.Key)
	}
	slices.Sort(keys)
	return keys
}

func (w *world) has(orgID string, want ...string) {
	w.t.Helper()
	if got := w.keys(orgID); !slices.Equal(got, want) {
		w.t.Errorf("it has %q, want %q", got, want)
	}
}

func sized(n int) string { return strings.Repeat("x", n) }

// TestOldestMakeRoom: in a quota of a repository the least recently used go; those
// that somebody has the URL of, or saves, stay.
func TestOldestMakeRoom(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, small := w.t.Context(), w.limited(cache.Limits{Repo: 100})
		other := job(func(c *cache.Caller) { c.Repo = "acme/other" })
		for _, key := range []string{"a", "b", "c"} {
			small.saved(job(), key, sized(30))
			w.pass(time.Second)
		}
		small.saved(other, "theirs", sized(30))
		if _, ok, err := small.Find(ctx, job(), "a", nil, version); !ok || err != nil {
			w.t.Fatal(err)
		}
		w.pass(10 * time.Minute) // nobody has a URL any more
		small.saved(job(), "d", sized(40))
		small.has(nimbus.DefaultOrgID, "a", "c", "d", "theirs") // a was used last
		for _, key := range []string{"a", "c"} {
			if _, ok, err := small.Find(ctx, job(), key, nil, version); !ok || err != nil {
				w.t.Fatal(err)
			}
		}
		u, err := small.Reserve(ctx, job(), "e", version, 100)
		w.must(err)
		err = small.PutBlock(ctx, u.ID, "", strings.NewReader(sized(50)), 50)
		w.wants("what is in use makes no room", err, nimbus.CodeTooLarge)
		if err == nil || !strings.Contains(err.Error(), "acme/app has 100 of 100 bytes") {
			w.t.Errorf("it does not tell which quota, and how much of it is used: %v", err)
		}
		small.has(nimbus.DefaultOrgID, "a", "c", "d", "theirs") // none went in vain
		w.must(small.PutBlock(ctx, u.ID, "", strings.NewReader(sized(40)), 40))
		small.has(nimbus.DefaultOrgID, "a", "c", "theirs")
		w.wants("what is saved makes no room", small.PutBlock(ctx, u.ID, "2", strings.NewReader("x"), 1), nimbus.CodeTooLarge)
		_, err = small.Reserve(ctx, job(), "f", version, 101)
		w.wants("what never fits is refused early", err, nimbus.CodeTooLarge)
		_, err = small.Commit(ctx, job(), "e", version, 40)
		w.must(err)
		st, err := small.Stats(ctx, nimbus.DefaultOrgID)
		if err != nil || st.Evicted != 2 || st.EvictedBytes != 70 || st.Bytes != 130 || len(st.Repos) != 2 || st.Repos[0].Repo != "acme/app" || st.Repos[0].Quota != 100 {
			w.t.Errorf("the books say %+v, %v", st, err)
		}
		w.sweep()
		small.balanced()
	})
}

// TestReadersKeep: what is read is not evicted, nor is its content removed when a
// person removes it, for as long as it is read.
func TestReadersKeep(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, small := w.t.Context(), w.limited(cache.Limits{Org: 100})
		e := small.saved(job(), "read", sized(30), sized(30))
		w.pass(10 * time.Minute)
		r, err := small.Open(ctx, e, 0, -1)
		w.must(err)
		defer r.Close()
		far := w.limited(cache.Limits{Org: 100}) // another replica
		for range 4 {
			w.pass(4 * time.Minute)
			w.must(cache.Keep(ctx, small.Service))
			_, err = far.save(job(func(c *cache.Caller) { c.Repo = "acme/other" }), "more", sized(50))
			w.wants("it makes room while it is read", err, nimbus.CodeTooLarge)
			w.pass(idle)
			w.must(cache.Keep(ctx, small.Service))
			w.must(far.Sweep(ctx))
		}
		w.must(far.Remove(ctx, e.OrgID, e.ID))
		if _, ok, err := far.Find(ctx, job(), "read", nil, version); ok || err != nil {
			w.t.Errorf("what was removed is found: %v", err)
		}
		_, err = far.Open(ctx, e, 0, -1)
		w.wants("what was removed is opened", err, nimbus.CodeNotFound)
		_, err = small.Open(ctx, e, 0, -1)
		w.wants("what was removed is opened where it was read", err, nimbus.CodeNotFound)
		w.must(far.Sweep(ctx))
		if got, err := io.ReadAll(r); err != nil || len(got) != 60 {
			w.t.Errorf("who reads it gets %d bytes, %v", len(got), err)
		}
		w.must(r.Close())
		w.pass(6 * time.Minute)
		w.must(cache.Keep(ctx, small.Service))
		w.must(far.Sweep(ctx))
		far.balanced()
		if n := len(w.stored()); n != 0 {
			w.t.Errorf("%d contents are left", n)
		}
	})
}

// TestFairShare: where all is full, the org with the most makes room, and not the
// one that has little.
func TestFairShare(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		small := w.limited(cache.Limits{Total: 300})
		of := func(org string) cache.Caller { return job(func(c *cache.Caller) { c.OrgID = org }) }
		big, middle, little := w.org("big"), w.org("middle"), w.org("little")
		small.saved(of(little), "oldest", sized(20))
		for i := range 4 {
			w.pass(time.Second)
			small.saved(of(middle), fmt.Sprint("m", i), sized(20))
			small.saved(of(big), fmt.Sprint("b", i), sized(50))
		}
		w.pass(10 * time.Minute)
		small.saved(of(little), "new", sized(60)) // 0 are left: big goes down until the others' turn
		small.has(little, "new", "oldest")
		small.has(big, "b2", "b3")
		small.has(middle, "m0", "m1", "m2", "m3")
		w.must(small.SetQuota(w.t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin}, middle, cache.AllRepos, 45))
		w.pass(10 * time.Minute)
		w.sweep()
		small.has(middle, "m2", "m3")
		w.limited(cache.Limits{Total: 180}).sweep() // 220 are used, 100 of them by big
		small.has(big, "b3")
		small.has(middle, "m2", "m3")
		small.has(little, "new", "oldest")
		small.balanced()
	})
}

// TestManySmallOnes: a claim for which more entries have to go than one
// transaction takes.
func TestManySmallOnes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, small := w.t.Context(), w.limited(cache.Limits{Org: 100})
		for i := range 20 {
			small.saved(job(), fmt.Sprint("small", i), sized(5))
		}
		w.pass(10 * time.Minute)
		e := small.saved(job(), "large", sized(100))
		small.has(e.OrgID, "large")
		few := w.limited(cache.Limits{Entries: 3})
		for i := range 5 {
			few.saved(job(), fmt.Sprint("few", i), "x")
			w.pass(10 * time.Minute)
		}
		few.has(e.OrgID, "few2", "few3", "few4")
		for i := range 3 {
			_, err := few.Reserve(ctx, job(), fmt.Sprint("up", i), version, 0)
			w.must(err)
		}
		_, err := few.Reserve(ctx, job(), "one more", version, 0)
		w.wants("uploads make no room", err, nimbus.CodeTooLarge)
		_, err = w.limited(cache.Limits{Uploads: 3}).Reserve(ctx, job(), "one more", version, 0)
		w.wants("too many at once", err, nimbus.CodeRateLimited)
		w.pass(idle + time.Second)
		w.sweep()
		few.balanced()
	})
}

// watched looks at the books whenever a content is stored.
type watched struct {
	cache.Blobs

	look func()
}

func (b watched) Put(ctx context.Context, key string, r io.Reader, most int64) (blob.Info, error) {
	b.look()
	info, err := b.Blobs.Put(ctx, key, r, most)
	b.look()
	return info, err
}

// act is what becomes of an upload.
type act struct {
	repo   string
	blocks []int
	end    string // commit, cut, leave
	known  bool   // its sizes
}

// TestNothingOvershoots: whatever is saved at once, the books never pass a quota,
// and in the end they are of what is there.
func TestNothingOvershoots(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		round := 0
		rapid.Check(w.t, func(rt *rapid.T) {
			round++
			limits := cache.Limits{
				Repo: rapid.Int64Range(1, 120).Draw(rt, "repo"), Org: rapid.Int64Range(1, 160).Draw(rt, "org"), Total: rapid.Int64Range(1, 160).Draw(rt, "total"),
			}
			if rapid.Bool().Draw(rt, "roomy") { // for those whose size is not known
				limits.Repo, limits.Org, limits.Total = 6<<10, 9<<10, 12<<10
			}
			acts := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) act {
				return act{
					repo:   rapid.SampledFrom([]string{"acme/a", "acme/b", ""}).Draw(rt, "of"),
					blocks: rapid.SliceOfN(rapid.IntRange(0, 60), 1, 3).Draw(rt, "blocks"),
					end:    rapid.SampledFrom([]string{"commit", "commit", "commit", "cut", "leave"}).Draw(rt, "end"),
					known:  rapid.Bool().Draw(rt, "known"),
				}
			}), 2, 7).Draw(rt, "acts")
			w.overshoot(rt, round, limits, acts)
		})
	})
}

func (w *world) overshoot(rt *rapid.T, round int, limits cache.Limits, acts []act) {
	ctx := w.t.Context()
	small := w.limited(limits)
	small.cfg.Blobs = watched{w.blobs, func() {
		st, err := small.Stats(ctx, nimbus.DefaultOrgID)
		if err != nil || st.Bytes > min(limits.Org, limits.Total) || slices.ContainsFunc(st.Repos, func(u cache.Usage) bool { return u.Bytes > limits.Repo }) {
			rt.Errorf("the books say %+v, %v", st, err)
		}
	}}
	small.Service = cache.New(small.cfg)
	var wg sync.WaitGroup
	for i, a := range acts {
		wg.Go(func() {
			if err := small.play(ctx, fmt.Sprintf("%d-%d", round, i), a); err != nil && nimbus.ErrorCode(err) != nimbus.CodeTooLarge && !errors.Is(err, errCut) {
				rt.Errorf("%+v: %v", a, err)
			}
		})
	}
	wg.Wait()
	w.pass(idle + time.Minute)
	w.must(small.Sweep(ctx))
	small.balanced()
	for _, e := range small.entries(nimbus.DefaultOrgID) {
		w.must(small.Remove(ctx, e.OrgID, e.ID))
	}
	w.pass(10 * time.Minute)
	w.must(small.Sweep(ctx))
	if n := len(w.stored()); n > 0 {
		rt.Errorf("%d contents are left", n)
	}
}

var errCut = errors.New("the line was cut")

func (w *world) play(ctx context.Context, key string, a act) error {
	c := job(func(c *cache.Caller) { c.Repo = a.repo })
	u, err := w.Reserve(ctx, c, key, version, 0)
	if err != nil {
		return err
	}
	ids, total := make([]string, len(a.blocks)), int64(0)
	for i, n := range a.blocks {
		ids[i] = fmt.Sprint(i)
		body, size := io.Reader(strings.NewReader(sized(n))), int64(n)
		total += size
		if a.end == "cut" && i == len(a.blocks)-1 {
			body = io.MultiReader(strings.NewReader(sized(n/2)), iotest.ErrReader(errCut))
		}
		if !a.known {
			size = -1
		}
		if err := w.PutBlock(ctx, u.ID, ids[i], body, size); err != nil {
			return err
		}
	}
	if a.end == "leave" {
		return nil
	}
	if err := w.Arrange(ctx, u.ID, ids); err != nil {
		return err
	}
	_, err = w.Commit(ctx, c, key, version, total)
	return err
}

// TestManyEmptyBlocks: each block costs a file and a row that no quota counts, so
// there can't be many without bytes in them.
func TestManyEmptyBlocks(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		u, err := w.Reserve(ctx, job(), "empty", version, 0)
		w.must(err)
		put := func(id, content string) error {
			return w.PutBlock(ctx, u.ID, id, strings.NewReader(content), int64(len(content)))
		}
		most := cache.MostBlocks(0)
		for i := range most {
			w.must(put(strconv.FormatInt(i, 10), ""))
		}
		w.wants("one block more", put("more", ""), nimbus.CodeTooLarge)
		w.must(put("0", "")) // again
		u, err = w.Reserve(ctx, job(), "full", version, 0)
		w.must(err)
		for i := range most + 8 {
			w.must(put(strconv.FormatInt(i, 10), sized(64<<10)))
		}
	})
}

// TestWhatIsOnlySaidCostsNobody: an upload that announces much and sends a byte has
// no entries of others evicted for what it announced.
func TestWhatIsOnlySaidCostsNobody(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		const mib = 1 << 20
		small := w.limited(cache.Limits{Org: 20 * mib})
		for _, key := range []string{"a", "b", "c"} {
			small.saved(job(), key, sized(6*mib))
		}
		w.pass(10 * time.Minute) // nobody has a URL any more
		u, err := small.Reserve(w.t.Context(), job(), "d", version, 0)
		w.must(err)
		if err := small.PutBlock(w.t.Context(), u.ID, "", strings.NewReader("x"), 16*mib); err == nil {
			w.t.Error("a block that broke off is taken")
		}
		small.has(nimbus.DefaultOrgID, "a", "b", "c")
	})
}
