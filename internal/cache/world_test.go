package cache_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// world is a cache on a database and a disk.
type world struct {
	*cache.Service
	t     *testing.T
	db    *store.Store
	blobs *fs.Store
	cfg   cache.Config

	postgres bool

	mu     sync.Mutex
	offset time.Duration
}

const idle = 5 * time.Minute

// Now implements nimbus.Clock.
func (w *world) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

// pass moves the clocks of the service and of the database.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	w.offset += d
	offset := w.offset
	w.mu.Unlock()
	w.must(w.db.OffsetClock(w.t.Context(), offset))
}

func (w *world) sweep() {
	w.t.Helper()
	w.must(w.Sweep(w.t.Context()))
}

// org makes another org.
func (w *world) org(name string) string {
	w.t.Helper()
	o, err := identity.New(w.db, nimbus.SystemClock{}).CreateOrg(w.t.Context(), identity.Root(), name, nil)
	w.must(err)
	return o.ID
}

// stored are the keys of all contents.
func (w *world) stored() (keys []string) {
	w.t.Helper()
	for after := ""; ; {
		page, err := w.blobs.List(w.t.Context(), "cache/", after, 0)
		w.must(err)
		for _, b := range page {
			keys, after = append(keys, b.Key), b.Key
		}
		if len(page) == 0 {
			return keys
		}
	}
}

// entries are all entries of an org.
func (w *world) entries(orgID string) (all []cache.Entry) {
	w.t.Helper()
	for token := ""; ; {
		page, next, err := w.List(w.t.Context(), orgID, cache.AllRepos, cache.Filter{}, nimbus.PageRequest{Size: 3, Token: token})
		w.must(err)
		if all, token = append(all, page...), next; next == "" {
			return all
		}
	}
}

// balanced fails unless the books are those of entries alone: no upload is under
// way, everything reads back with its hash, and nothing else is on the disk.
func (w *world) balanced() {
	w.t.Helper()
	ctx := w.t.Context()
	orgs, err := w.Usage(ctx, "")
	w.must(err)
	var named []string
	for _, org := range orgs {
		st, err := w.Stats(ctx, org.OrgID)
		w.must(err)
		bytes, count := map[string]int64{}, map[string]int64{}
		for _, e := range w.entries(org.OrgID) {
			for _, repo := range []string{e.Repo, cache.AllRepos} {
				bytes[repo] += e.Size
				count[repo]++
			}
			named = append(named, w.readsBack(e)...)
		}
		for _, u := range append(st.Repos, st.Usage) {
			if u.Bytes != bytes[u.Repo] || u.Entries != count[u.Repo] {
				w.t.Errorf("%s %s has %d entries of %d bytes, and the books say %d of %d", u.OrgID, u.Repo, count[u.Repo], bytes[u.Repo], u.Entries, u.Bytes)
			}
		}
	}
	slices.Sort(named)
	if diff := cmp.Diff(named, w.stored()); diff != "" {
		w.t.Errorf("contents (-named +stored):\n%s", diff)
	}
}

// readsBack reads an entry, and returns the keys of its contents.
func (w *world) readsBack(e cache.Entry) (keys []string) {
	w.t.Helper()
	whole, err := w.read(e.ID, 0, -1)
	if err != nil || int64(len(whole)) != e.Size {
		w.t.Errorf("%q reads back as %d bytes of %d, %v", e.Key, len(whole), e.Size, err)
		return nil
	}
	segments, err := w.db.CacheSegments(w.t.Context(), e.ID, 0, 10_000)
	if e.Size > 0 {
		w.must(err)
	}
	for _, s := range segments {
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(whole[s.Offset:s.Offset+s.Size]))); sum != s.SHA256 {
			w.t.Errorf("%q has not its hash from %d on", e.Key, s.Offset)
		}
	}
	names, err := w.db.CacheBlobNames(w.t.Context(), e.ID, 10_000)
	w.must(err)
	for _, name := range names {
		keys = append(keys, fmt.Sprintf("cache/%s/%d/%s", e.OrgID, e.ID, name))
	}
	return keys
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func onBoth(t *testing.T, test func(*world)) {
	t.Helper()
	for name, dsn := range map[string]func(testing.TB) string{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dsn(t))
			w.postgres = name == "postgres"
			test(w)
		})
	}
}

func newWorld(t *testing.T, dsn string) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	w.db, err = store.Open(t.Context(), store.Config{DSN: dsn})
	w.must(err)
	t.Cleanup(func() { w.must(w.db.Close()) })
	w.blobs, err = fs.Open(t.TempDir())
	w.must(err)
	t.Cleanup(func() { w.blobs.Close() })
	w.cfg = cache.Config{Store: w.db, Blobs: w.blobs, Clock: w, Limits: cache.Limits{Idle: idle}, Log: slog.New(slog.DiscardHandler)}
	w.Service = cache.New(w.cfg)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

const (
	mainRef = "refs/heads/main"
	topic   = "refs/heads/topic"
	version = "v1"
)

// job is a caller of the default org's repository acme/app on a branch.
func job(edit ...func(*cache.Caller)) cache.Caller {
	c := cache.Caller{OrgID: nimbus.DefaultOrgID, Repo: "acme/app", JobID: "job_1", Write: mainRef, Read: []string{mainRef}}
	for _, e := range edit {
		e(&c)
	}
	return c
}

// save saves an entry of blocks.
func (w *world) save(c cache.Caller, key string, blocks ...string) (cache.Entry, error) {
	w.t.Helper()
	ctx := w.t.Context()
	u, err := w.Reserve(ctx, c, key, version, 0)
	if err != nil {
		return cache.Entry{}, err
	}
	ids, size := make([]string, len(blocks)), 0
	for i, b := range blocks {
		ids[i], size = fmt.Sprintf("block-%d", i), size+len(b)
		if err := w.PutBlock(ctx, u.ID, ids[i], bytes.NewReader([]byte(b)), int64(len(b))); err != nil {
			return cache.Entry{}, err
		}
	}
	if err := w.Arrange(ctx, u.ID, ids); err != nil {
		return cache.Entry{}, err
	}
	return w.Commit(ctx, c, key, version, int64(size))
}

func (w *world) saved(c cache.Caller, key string, blocks ...string) cache.Entry {
	w.t.Helper()
	e, err := w.save(c, key, blocks...)
	w.must(err)
	return e
}

// read is n bytes of an entry from offset on.
func (w *world) read(id, offset, n int64) (string, error) {
	w.t.Helper()
	e, err := w.Entry(w.t.Context(), id)
	if err != nil {
		return "", err
	}
	r, err := w.Open(w.t.Context(), e, offset, n)
	if err != nil {
		return "", err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	return string(raw), err
}

// wants fails unless an error has a code.
func (w *world) wants(what string, err error, code nimbus.Code) {
	w.t.Helper()
	if nimbus.ErrorCode(err) != code {
		w.t.Errorf("%s: %q, %v", what, nimbus.ErrorCode(err), err)
	}
}
