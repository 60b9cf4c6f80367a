// Package cache_test drives the cache as jobs do: by the clients that they bring
// along, and by those who would like to have what is others'.
package cache_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
	"github.com/nimbus-ci/nimbus/internal/cache/keyed"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

const (
	mainRef  = "refs/heads/main"
	topicRef = "refs/heads/topic"
	MiB      = 1 << 20
)

// world is a cache as a server has it, on a database and a disk.
type world struct {
	t     testing.TB
	url   string
	db    *store.Store
	cache *cache.Service
	keys  *actions.Keys
	// before sees each request before the cache does.
	before func(*http.Request)
	// away has the place of contents be as if it were not there.
	away atomic.Bool
	// wrap is put around each answer.
	wrap func(http.ResponseWriter) http.ResponseWriter
}

func newWorld(t testing.TB, limits cache.Limits, edit ...func(*actions.Config)) *world {
	t.Helper()
	w := &world{t: t, before: func(*http.Request) {}, wrap: func(rw http.ResponseWriter) http.ResponseWriter { return rw }}
	var err error
	w.db, err = store.Open(t.Context(), store.Config{DSN: storetest.SQLite(t)})
	w.must(err)
	t.Cleanup(func() { w.must(w.db.Close()) })
	blobs, err := fs.Open(t.TempDir())
	w.must(err)
	t.Cleanup(func() { w.must(blobs.Close()) })
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.cache = cache.New(cache.Config{Store: w.db, Blobs: place{blobs, &w.away}, Limits: limits, Log: log})
	w.keys, err = actions.NewKeys([]byte("a secret of the test's, thirty-two bytes"))
	w.must(err)

	server := httptest.NewUnstartedServer(nil)
	w.url = "http://" + server.Listener.Addr().String()
	cfg := actions.Config{Cache: w.cache, Keys: w.keys, PublicURL: w.url, Log: log}
	for _, e := range edit {
		e(&cfg)
	}
	handler, err := actions.New(cfg)
	w.must(err)
	mux := http.NewServeMux()
	byKey := keyed.New(keyed.Config{Cache: w.cache, Log: log, Caller: func(_ context.Context, token string) (cache.Caller, error) {
		g, err := w.keys.Verify(token, time.Now())
		return g.Caller, err
	}})
	for _, pattern := range append(actions.Patterns(), keyed.Prefix) {
		next := handler
		if pattern == keyed.Prefix {
			next = byKey
		}
		mux.Handle(pattern, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.before(r)
			next.ServeHTTP(w.wrap(rw), r)
		}))
	}
	server.Config.Handler = mux
	server.Start()
	t.Cleanup(server.Close)
	return w
}

// place is where contents are, unless that is away.
type place struct {
	*fs.Store

	away *atomic.Bool
}

func (p place) check() error {
	if p.away.Load() {
		return nimbus.Errorf(nimbus.CodeUnavailable, "the object store is away")
	}
	return nil
}

func (p place) Put(ctx context.Context, key string, r io.Reader, most int64) (blob.Info, error) {
	if err := p.check(); err != nil {
		return blob.Info{}, err
	}
	return p.Store.Put(ctx, key, r, most)
}

func (p place) OpenRange(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return p.Store.OpenRange(ctx, key, offset, n)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// later moves the clock of the database.
func (w *world) later(by time.Duration) {
	w.t.Helper()
	w.must(w.db.OffsetClock(context.WithoutCancel(w.t.Context()), by))
}

// job is who saves and restores: a job of acme/app on its main branch.
func job(edit ...func(*cache.Caller)) cache.Caller {
	c := cache.Caller{OrgID: nimbus.DefaultOrgID, Repo: "acme/app", JobID: "job_1", Write: mainRef, Read: []string{mainRef}}
	for _, e := range edit {
		e(&c)
	}
	return c
}

func onTopic(c *cache.Caller)  { c.Write, c.Read = topicRef, []string{topicRef, mainRef} }
func readOnly(c *cache.Caller) { c.Write = "" }

// token is a job's, good for an hour.
func (w *world) token(c cache.Caller) string {
	w.t.Helper()
	token, err := w.keys.Mint(actions.Grant{Caller: c, NotBefore: time.Now().Add(-time.Minute), ExpiresAt: time.Now().Add(time.Hour)})
	w.must(err)
	return token
}

// file makes a file of random bytes, and returns its path and hash.
func (w *world) file(size int64) (path, hash string) {
	w.t.Helper()
	path = filepath.Join(w.t.TempDir(), "content")
	f, err := os.Create(path)
	w.must(err)
	defer f.Close()
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	_, err = io.CopyN(f, rand.NewChaCha8(seed), size)
	w.must(err)
	return path, w.hash(path)
}

// hash is that of a file, "" where there is none.
func (w *world) hash(path string) string {
	w.t.Helper()
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return ""
	}
	w.must(err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	w.must(err)
	return hex.EncodeToString(h.Sum(nil))
}

func short(size int64) string { return fmt.Sprintf("%d.%d MiB", size/MiB, size%MiB) }
