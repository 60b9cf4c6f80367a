package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

func TestSaveAndFind(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		e := w.saved(job(), "linux-go-1", "hello ", "", "wide ", "world", "")
		found, ok, err := w.Find(w.t.Context(), job(), "linux-go-1", nil, version)
		if err != nil || !ok || found.ID != e.ID || found.Size != 16 || found.Key != "linux-go-1" || found.Scope != mainRef || found.CreatedAt.IsZero() {
			w.t.Fatalf("%+v, %v, %v", found, ok, err)
		}
		for offset := range int64(17) {
			for n := range 17 - offset {
				if got, err := w.read(e.ID, offset, n); err != nil || got != "hello wide world"[offset:offset+n] {
					w.t.Fatalf("%d bytes from %d on are %q, %v", n, offset, got, err)
				}
			}
		}
		var sent strings.Builder
		r, err := w.Open(w.t.Context(), e.ID, 3, -1)
		w.must(err)
		defer r.Close()
		if n, err := r.WriteTo(&sent); err != nil || n != 13 || sent.String() != "lo wide world" {
			w.t.Errorf("sent %q, %v", sent.String(), err)
		}
		if got, err := w.Entry(w.t.Context(), e.ID); err != nil || got.Place != (cache.Place{OrgID: e.OrgID, Repo: "acme/app", Scope: mainRef, Version: version, Key: "linux-go-1"}) {
			w.t.Errorf("it is %+v, %v", got, err)
		}
		for _, out := range [][2]int64{{-1, 1}, {17, 0}, {17, -1}, {0, 17}, {16, 1}, {1, 1 << 62}} {
			_, err := w.read(e.ID, out[0], out[1])
			w.wants(fmt.Sprint("opened ", out), err, nimbus.CodeInvalid)
		}
		_, err = w.Entry(w.t.Context(), e.ID+1)
		w.wants("another id", err, nimbus.CodeNotFound)
		_, err = w.read(e.ID+1, 0, -1)
		w.wants("another id", err, nimbus.CodeNotFound)
	})
}

// TestManySegments reads an entry of more segments than are known at once.
func TestManySegments(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		blocks := make([]string, 600)
		for i := range blocks {
			blocks[i] = fmt.Sprintf("%04d", i)
		}
		e, whole := w.saved(job(), "many", blocks...), strings.Join(blocks, "")
		for _, from := range []int64{0, 1023, 1024, 1025, 2398, 2399, 2400} {
			if got, err := w.read(e.ID, from, -1); err != nil || got != whole[from:] {
				w.t.Errorf("from %d on: %d bytes, %v", from, len(got), err)
			}
		}
	})
}

// TestOrderOfLooking: own scope first; in each the key exactly, then the newest
// that begins with it, then each other key likewise.
func TestOrderOfLooking(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		onTopic := job(func(c *cache.Caller) { c.Write, c.Read = topic, []string{topic, mainRef} })
		ids := map[string]int64{}
		for i := 1; i <= 11; i++ {
			key := fmt.Sprintf("index-scope-1-0123abcd#%d", i)
			ids[key] = w.saved(job(), key, key).ID
		}
		for _, key := range []string{"go-linux-b", "go-linux-a", "go-linux-", "x%_y", "xzzy", "ünï", "ünïcode"} {
			ids[key] = w.saved(job(), key, key).ID
		}
		ids["topic:go-linux-c"] = w.saved(onTopic, "go-linux-c", "topic").ID
		ids["topic:go-linux-a"] = w.saved(onTopic, "go-linux-a", "topic").ID
		for _, c := range []struct {
			caller  cache.Caller
			key     string
			restore []string
			want    string
		}{
			{job(), "index-scope-1-0123abcd#", nil, "index-scope-1-0123abcd#11"},
			{job(), "index-scope-1-0123abcd#1", nil, "index-scope-1-0123abcd#1"},
			{job(), "go-linux-", nil, "go-linux-"}, // exactly, though others are newer
			{job(), "go-linux", nil, "go-linux-"},  // the newest of main's
			{onTopic, "go-linux-b", nil, "go-linux-b"},
			{onTopic, "go-linux-", nil, "topic:go-linux-a"}, // own scope first, though main has it exactly
			{onTopic, "go-linux-b", []string{"go-linux-"}, "topic:go-linux-a"},
			{onTopic, "none", []string{"nothing", "go-linux-c", "go-linux-a"}, "topic:go-linux-c"},
			{job(), "none", []string{"go-linux-x", "index-"}, "index-scope-1-0123abcd#11"},
			{job(), "x%", nil, "x%_y"},
			{job(), "x_", nil, ""},
			{job(), "ün", nil, "ünïcode"},
			{job(), "ünï", nil, "ünï"},
			{job(), "GO-LINUX-", nil, ""},
			{job(), "go-linux-aa", nil, ""},
			{job(func(c *cache.Caller) { c.Read = nil }), "go-linux-a", nil, ""},
		} {
			e, ok, err := w.Find(w.t.Context(), c.caller, c.key, c.restore, version)
			if err != nil || ok != (c.want != "") || e.ID != ids[c.want] {
				w.t.Errorf("%q, %q finds %q of %s, %v; want %q", c.key, c.restore, e.Key, e.Scope, err, c.want)
			}
		}
		if e, ok, err := w.Find(w.t.Context(), job(), "go-linux-", nil, version+"x"); ok || err != nil {
			w.t.Errorf("another version finds %+v, %v", e, err)
		}
	})
}

// TestNewestIsByTime: an entry that is committed later is newer, whenever it was
// begun.
func TestNewestIsByTime(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		early, err := w.Reserve(ctx, job(), "key-early", version, 1)
		w.must(err)
		w.saved(job(), "key-late", "x")
		w.must(w.PutBlock(ctx, early.ID, "", strings.NewReader("e"), 1))
		if e, _, err := w.Find(ctx, job(), "key-", nil, version); err != nil || e.Key != "key-late" {
			w.t.Errorf("what is still being saved hides %q: %v", e.Key, err)
		}
		w.pass(time.Millisecond)
		_, err = w.CommitUpload(ctx, job(), early.ID, 1)
		w.must(err)
		if e, _, err := w.Find(ctx, job(), "key-", nil, version); err != nil || e.Key != "key-early" {
			w.t.Errorf("the newest is %q, %v", e.Key, err)
		}
	})
}

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

func TestPlacesAreTakenOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		const racers = 8
		var wg sync.WaitGroup
		won, lost := make(chan cache.Upload, racers), make(chan error, racers)
		for range racers {
			wg.Go(func() {
				u, err := w.Reserve(ctx, job(), "race", version, 4)
				if err != nil {
					lost <- err
					return
				}
				won <- u
			})
		}
		wg.Wait()
		if len(won) != 1 {
			w.t.Fatalf("%d have the place", len(won))
		}
		for range racers - 1 {
			w.wants("who comes late", <-lost, nimbus.CodeConflict)
		}
		u := <-won
		w.must(w.PutBlock(ctx, u.ID, "", strings.NewReader("once"), 4))
		ids := make(chan int64, racers)
		for range racers {
			wg.Go(func() {
				e, err := w.Commit(ctx, job(), "race", version, 4)
				if err != nil {
					w.t.Errorf("commit: %v", err)
				}
				ids <- e.ID
			})
		}
		wg.Wait()
		for range racers {
			if id := <-ids; id != u.ID {
				w.t.Errorf("it is committed as %d, not %d", id, u.ID)
			}
		}
		_, err := w.Reserve(ctx, job(), "race", version, 4)
		w.wants("once it is committed", err, nimbus.CodeConflict)
		_, err = w.CommitUpload(ctx, job(), u.ID, 5)
		w.wants("another size", err, nimbus.CodeConflict)
		w.balanced()
	})
}

func TestAbandonedUploadFreesItsPlace(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		first, err := w.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		w.must(w.PutBlock(ctx, first.ID, "a", strings.NewReader("aaaa"), 4))
		w.pass(idle - time.Second)
		w.must(w.PutBlock(ctx, first.ID, "b", strings.NewReader("b"), 1))
		w.pass(idle - time.Second)
		_, err = w.Reserve(ctx, job(), "key", version, 0)
		w.wants("while it is saved", err, nimbus.CodeConflict)
		w.pass(2 * time.Second)
		second, err := w.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		if second.ID == first.ID {
			w.t.Error("it is the same upload")
		}
		w.wants("a block that comes late", w.PutBlock(ctx, first.ID, "c", strings.NewReader("c"), 1), nimbus.CodeNotFound)
		w.wants("a list that comes late", w.Arrange(ctx, first.ID, []string{"a"}), nimbus.CodeNotFound)
		_, err = w.CommitUpload(ctx, job(), first.ID, 5)
		w.wants("a commit that comes late", err, nimbus.CodeNotFound)
		w.must(w.PutBlock(ctx, second.ID, "", strings.NewReader("new"), 3))
		e, err := w.Commit(ctx, job(), "key", version, 3)
		if err != nil || e.ID != second.ID {
			w.t.Errorf("%+v, %v", e, err)
		}
		w.sweep()
		w.balanced()
	})
}

// TestSlowUploadIsNotIdle: bytes keep a place, not blocks that end.
func TestSlowUploadIsNotIdle(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		u, err := w.Reserve(ctx, job(), "slow", version, 0)
		w.must(err)
		drop := readerFunc(func(p []byte) (int, error) {
			w.pass(idle / 2)
			w.sweep()
			p[0] = 'x'
			return 1, nil
		})
		w.must(w.PutBlock(ctx, u.ID, "", io.LimitReader(drop, 8), -1))
		_, err = w.Commit(ctx, job(), "slow", version, 8)
		w.must(err)
		w.balanced()
	})
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		u, err := w.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		put := func(id, content string) {
			w.t.Helper()
			w.must(w.PutBlock(ctx, u.ID, id, strings.NewReader(content), int64(len(content))))
		}
		put("b", "old and long")
		put("c", "!")
		put("a", "hello ")
		put("b", "world") // a retry: the last wins
		put("loose", "is not needed")
		_, err = w.Commit(ctx, job(), "key", version, 12)
		w.wants("without the list", err, nimbus.CodeInvalid)
		w.wants("a block that did not come", w.Arrange(ctx, u.ID, []string{"a", "b", "d"}), nimbus.CodeInvalid)
		w.wants("a block twice in the list", w.Arrange(ctx, u.ID, []string{"a", "a"}), nimbus.CodeInvalid)
		w.must(w.Arrange(ctx, u.ID, []string{"c", "b"}))
		w.must(w.Arrange(ctx, u.ID, []string{"a", "b", "c"}))
		w.must(w.Arrange(ctx, u.ID, []string{"a", "b", "c"}))
		put("b", "WORLD and more") // comes too late
		for _, wrong := range []int64{0, 11, 13, 25, 1 << 40} {
			_, err = w.Commit(ctx, job(), "key", version, wrong)
			if code := nimbus.ErrorCode(err); code != nimbus.CodeInvalid && code != nimbus.CodeTooLarge {
				w.t.Errorf("committed with %d bytes: %v", wrong, err)
			}
		}
		if _, ok, err := w.Find(ctx, job(), "key", nil, version); ok || err != nil {
			w.t.Errorf("it is found before it is committed: %v", err)
		}
		_, err = w.read(u.ID, 0, -1)
		w.wants("it is opened before it is committed", err, nimbus.CodeNotFound)
		e, err := w.Commit(ctx, job(), "key", version, 12)
		w.must(err)
		if got, err := w.read(e.ID, 0, -1); err != nil || got != "hello world!" {
			w.t.Errorf("it is %q, %v", got, err)
		}
		if n := len(w.stored()); n != 3 {
			w.t.Errorf("%d contents are left of it", n)
		}
		w.wants("a block of an entry", w.PutBlock(ctx, e.ID, "a", strings.NewReader("x"), 1), nimbus.CodeNotFound)
		w.wants("a list of an entry", w.Arrange(ctx, e.ID, []string{"a"}), nimbus.CodeNotFound)
		w.balanced()
	})
}

func TestRanges(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		begin := func(key string, ranges ...string) int64 {
			u, err := w.Reserve(ctx, job(), key, version, 0)
			w.must(err)
			for _, r := range ranges {
				var at int64
				var text string
				_, err := fmt.Sscanf(r, "%d:%s", &at, &text)
				w.must(err)
				w.must(w.PutRange(ctx, u.ID, at, strings.NewReader(text), int64(len(text))))
			}
			return u.ID
		}
		e, err := w.CommitUpload(ctx, job(), begin("good", "4:efgh", "0:xxxx", "8:ij", "0:abcd"), 10)
		w.must(err)
		if got, err := w.read(e.ID, 2, 7); err != nil || got != "cdefghi" {
			w.t.Errorf("it has %q, %v", got, err)
		}
		for key, ranges := range map[string][]string{"a gap": {"0:abcd", "5:fgh"}, "an overlap": {"0:abcd", "3:defgh"}, "no beginning": {"1:bcdefgh"}, "one in another": {"0:abcdefgh", "2:cd"}} {
			_, err := w.CommitUpload(ctx, job(), begin(key, ranges...), 8)
			w.wants(key, err, nimbus.CodeInvalid)
		}
		w.wants("before the beginning", w.PutRange(ctx, begin("minus"), -1, strings.NewReader("x"), 1), nimbus.CodeInvalid)
		empty, err := w.CommitUpload(ctx, job(), begin("empty"), 0)
		w.must(err)
		if got, err := w.read(empty.ID, 0, -1); err != nil || got != "" {
			w.t.Errorf("the empty one has %q, %v", got, err)
		}
		w.pass(idle + time.Second)
		w.sweep() // what could not be committed
		w.balanced()
	})
}

func TestSizes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		_, err := w.Reserve(ctx, job(), "key", version, -1)
		w.wants("a negative size", err, nimbus.CodeInvalid)
		_, err = w.Reserve(ctx, job(), "key", version, 1<<60)
		w.wants("a size as of a zip bomb", err, nimbus.CodeTooLarge)
		u, err := w.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		w.wants("less than announced", w.PutBlock(ctx, u.ID, "", strings.NewReader("123"), 4), nimbus.CodeInvalid)
		w.wants("more than announced", w.PutBlock(ctx, u.ID, "", strings.NewReader("12345"), 4), nimbus.CodeTooLarge)
		w.wants("a block as of a zip bomb", w.PutBlock(ctx, u.ID, "", strings.NewReader("1"), 1<<60), nimbus.CodeTooLarge)
		w.wants("a long id", w.PutBlock(ctx, u.ID, strings.Repeat("x", 300), strings.NewReader("1"), 1), nimbus.CodeInvalid)
		cut := errors.New("the line was cut")
		if err := w.PutBlock(ctx, u.ID, "", io.MultiReader(strings.NewReader("12"), iotest.ErrReader(cut)), 4); !errors.Is(err, cut) {
			w.t.Errorf("a body that ends early: %v", err)
		}
		if n := len(w.stored()); n != 0 {
			w.t.Errorf("%d contents are left of what failed", n)
		}
		if st, err := w.Stats(ctx, nimbus.DefaultOrgID); err != nil || st.Bytes != 0 {
			w.t.Errorf("%d bytes are counted for what failed, %v", st.Bytes, err)
		}
		w.wants("an upload that never was", w.PutBlock(ctx, u.ID+1, "", bytes.NewReader(nil), 0), nimbus.CodeNotFound)
		w.must(w.PutBlock(ctx, u.ID, "", strings.NewReader("1234"), -1))
		if st, err := w.Stats(ctx, nimbus.DefaultOrgID); err != nil || st.Bytes != 4 {
			w.t.Errorf("%d bytes are counted for four, %v", st.Bytes, err)
		}
	})
}
