package cache_test

import (
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// TestClients is what every client of GitHub's protocol does alike beside the cases
// of the matrix.
func TestClients(t *testing.T) {
	for name, c := range clients(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for what, test := range map[string]func(*testing.T, client){
				"a token that reads": readsOnly, "an upload that was given up": abandoned, "branches": branches,
			} {
				t.Run(what, func(t *testing.T) { test(t, c) })
			}
		})
	}
}

// saves saves, or ends the test.
func (w *world) saves(cl client, c cache.Caller, key, file string) {
	w.t.Helper()
	if got, log := cl.save(w.t.Context(), w, c, key, file); got != saved {
		w.t.Fatalf("save %s: %s\n%s", key, got, log)
	}
}

// restores fails unless a look-up finds a key, with a content.
func (w *world) restores(cl client, c cache.Caller, want, hash, key string, more ...string) {
	w.t.Helper()
	into := filepath.Join(w.t.TempDir(), "restored")
	found, log := cl.restore(w, c, into, key, more...)
	if found != want {
		w.t.Errorf("%s, %q: found %q, want %q\n%s", key, more, found, want, log)
	} else if got := w.hash(into); got != hash {
		w.t.Errorf("%s, %q: found %q with another content\n%s", key, more, found, log)
	}
}

// kept: the server has what was saved, once and under its key.
func kept(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	file, _ := w.file(3 * MiB)
	w.saves(cl, job(), "deps-1", file)
	w.hasOne("deps-1", 3*MiB)
}

// hasOne fails unless one entry is there, of a key that ends so and of at least a size.
func (w *world) hasOne(key string, size int64) {
	w.t.Helper()
	entries, _, err := w.cache.List(w.t.Context(), nimbus.DefaultOrgID, job().Repo, cache.Filter{}, nimbus.PageRequest{})
	w.must(err)
	if len(entries) != 1 || !strings.HasSuffix(entries[0].Key, key) || entries[0].Size < size {
		w.t.Errorf("%d entries, want one of %q and %d bytes: %+v", len(entries), key, size, entries)
	}
}

func sizes(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	for _, size := range []int64{1, MiB - 1, MiB} {
		file, hash := w.file(size)
		key := "size-" + strconv.FormatInt(size, 10)
		w.saves(cl, job(), key, file)
		w.restores(cl, job(), key, hash, key)
	}
}

// missing: where there is nothing a job goes on, and so it does beside what it does
// not ask for.
func missing(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	w.restores(cl, job(), "", "", "nothing-yet")
	file, _ := w.file(1000)
	w.saves(cl, job(), "something", file)
	w.restores(cl, job(), "", "", "nothing-yet")
}

// inBlocks: what is too large for one block comes in several, and comes back whole.
func inBlocks(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	var blocks atomic.Int64
	w.before = func(r *http.Request) {
		if r.Method == http.MethodPatch || r.Method == http.MethodPut && r.URL.Query().Get("comp") == "block" {
			blocks.Add(1)
		}
	}
	file, hash := w.file(128*MiB + 1) // of random bytes: the client compresses
	w.saves(cl, job(), "large", file)
	if n := blocks.Load(); n < 2 {
		t.Errorf("it came in %d blocks", n)
	}
	w.restores(cl, job(), "large", hash, "large")
}

func prefixes(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	hashes := map[string]string{}
	for _, key := range []string{"deps-9", "deps-10", "other-1"} {
		var file string
		file, hashes[key] = w.file(1000)
		w.saves(cl, job(), key, file)
	}
	w.restores(cl, job(), "deps-10", hashes["deps-10"], "deps-")              // the newest, not the last by name
	w.restores(cl, job(), "deps-10", hashes["deps-10"], "deps-11", "deps-")   // one of which there is none, then that
	w.restores(cl, job(), "deps-9", hashes["deps-9"], "deps-9", "deps-")      // itself before what is newer
	w.restores(cl, job(), "other-1", hashes["other-1"], "x", "other", "deps") // in the order of the keys
	w.restores(cl, job(), "", "", "eps-9", "eps-")
}

func conflict(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	first, hash := w.file(1000)
	second, _ := w.file(1000)
	w.saves(cl, job(), "once", first)
	if got, log := cl.save(t.Context(), w, job(), "once", second); got != taken {
		t.Errorf("the second: %s\n%s", got, log)
	}
	w.restores(cl, job(), "once", hash, "once")
}

func readsOnly(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	file, hash := w.file(1000)
	w.saves(cl, job(), "there", file)
	w.restores(cl, job(readOnly), "there", hash, "there")
	if got, log := cl.save(t.Context(), w, job(readOnly), "mine", file); got != refused || !strings.Contains(log, "cache write denied") {
		t.Errorf("a save: %s\n%s", got, log)
	}
	w.restores(cl, job(), "", "", "mine")
}

// quota: what is too large is refused, its user is told why, and it keeps no place.
func quota(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{Repo: 2 * MiB})
	small, _ := w.file(MiB)
	large, _ := w.file(5 * MiB)
	w.saves(cl, job(), "small", small)
	if got, log := cl.save(t.Context(), w, job(), "large", large); got != refused || !strings.Contains(log, "acme/app") {
		t.Errorf("too much for the repository: %s\n%s", got, log)
	}
	w.restores(cl, job(), "", "", "large")
}

func concurrent(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	type result struct {
		verdict
		hash, log string
	}
	results := make(chan result, 3)
	var all sync.WaitGroup
	for range cap(results) {
		file, hash := w.file(3 * MiB)
		all.Go(func() {
			got, log := cl.save(t.Context(), w, job(), "race", file)
			results <- result{got, hash, log}
		})
	}
	all.Wait()
	close(results)
	var winner string
	for r := range results {
		switch {
		case r.verdict == saved && winner == "":
			winner = r.hash
		case r.verdict != taken:
			t.Errorf("one of them: %s\n%s", r.verdict, r.log)
		}
	}
	w.restores(cl, job(), "race", winner, "race")
}

// abandoned: a client that is killed while it uploads keeps the key for as long as
// bytes might still come, and not longer.
func abandoned(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{Idle: 5 * time.Minute})
	file, hash := w.file(3 * MiB)
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	dead := make(chan struct{})
	w.before = func(r *http.Request) {
		if r.Method == http.MethodPut || r.Method == http.MethodPatch {
			kill()
			<-dead
		}
	}
	cl.save(ctx, w, job(), "left", file)
	close(dead)
	if ctx.Err() == nil {
		t.Fatal("nothing was uploaded")
	}
	w.before = func(*http.Request) {}
	if got, log := cl.save(t.Context(), w, job(), "left", file); got != taken {
		t.Errorf("at once: %s\n%s", got, log)
	}
	w.restores(cl, job(), "", "", "left")
	w.later(6 * time.Minute)
	w.saves(cl, job(), "left", file)
	w.restores(cl, job(), "left", hash, "left")
}

// branches: one reads its own and its base, and no base reads what is on a branch.
func branches(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	base, baseHash := w.file(1000)
	own, ownHash := w.file(1000)
	elsewhere := job(func(c *cache.Caller) { c.Repo = "acme/other" })
	w.saves(cl, job(), "deps-1", base)
	w.restores(cl, job(onTopic), "deps-1", baseHash, "deps-2", "deps-")
	w.saves(cl, job(onTopic), "deps-1", own)
	w.saves(cl, job(), "deps-3", base)
	w.restores(cl, job(onTopic), "deps-1", ownHash, "deps-1")
	w.restores(cl, job(onTopic), "deps-1", ownHash, "deps-2", "deps-") // its own, though the base has a newer one
	w.restores(cl, job(), "deps-1", baseHash, "deps-1")
	w.restores(cl, elsewhere, "", "", "deps-1", "deps-")
}
