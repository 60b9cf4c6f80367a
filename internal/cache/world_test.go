package cache_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a cache on a database and a disk.
type world struct {
	*cache.Service
	t     *testing.T
	db    *store.Store
	blobs *fs.Store
	cfg   cache.Config
}

func onBoth(t *testing.T, test func(*world)) {
	t.Helper()
	for name, dsn := range map[string]func(testing.TB) string{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newWorld(t, dsn(t)))
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
	w.cfg = cache.Config{Store: w.db, Blobs: w.blobs, Log: slog.New(slog.DiscardHandler)}
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
	r, err := w.Open(w.t.Context(), id, offset, n)
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
