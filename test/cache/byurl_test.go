package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache"
)

// byURL puts and gets contents by URL, where a tool has them. It is no tool: it
// speaks as one does for which there is no client to start here.
type byURL struct {
	layout string // of a path, with the key in it
	hashed bool   // keys are hashes
	once   bool   // it asks for a key that nobody has
}

func (b byURL) send(ctx context.Context, w *world, c cache.Caller, method, key string, body *os.File) (*http.Response, error) {
	w.t.Helper()
	if b.hashed {
		key = sum(key)
	}
	var content io.Reader
	if body != nil {
		content = body
	}
	r, err := http.NewRequestWithContext(ctx, method, w.as(c).path(fmt.Sprintf(b.layout, key)), content)
	w.must(err)
	if body != nil {
		info, err := body.Stat()
		w.must(err)
		r.ContentLength = info.Size()
		if b.once {
			r.Header.Set("If-None-Match", "*")
		}
	}
	r.Header.Set("Authorization", "Bearer "+w.token(c))
	return http.DefaultClient.Do(r)
}

func (b byURL) save(ctx context.Context, w *world, c cache.Caller, key, file string) (verdict, string) {
	w.t.Helper()
	f, err := os.Open(file)
	w.must(err)
	defer f.Close()
	answer, err := b.send(ctx, w, c, http.MethodPut, key, f)
	if err != nil {
		return refused, err.Error()
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	w.must(err)
	log := answer.Status + " " + string(said)
	switch answer.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted:
		return saved, log
	case http.StatusConflict, http.StatusPreconditionFailed:
		return taken, log
	}
	return refused, log
}

func (b byURL) restore(w *world, c cache.Caller, file, key string, _ ...string) (found, log string) {
	w.t.Helper()
	answer, err := b.send(w.t.Context(), w, c, http.MethodGet, key, nil)
	w.must(err)
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return "", answer.Status
	default:
		w.t.Errorf("%s: %s", key, answer.Status)
		return "", answer.Status
	}
	f, err := os.Create(file)
	w.must(err)
	defer f.Close()
	_, err = io.Copy(f, answer.Body)
	w.must(err)
	return key, answer.Status
}

// ofURLs are the cells of what speaks by URL: tools differ in what becomes of a key
// that is taken.
func ofURLs(b byURL, conflict, concurrent func(*testing.T, client)) map[string]cell {
	why := exactPaths
	if b.hashed {
		why = exactKeys
	}
	cells := map[string]cell{"prefix": {why: why}}
	for what, test := range map[string]func(*testing.T, client){
		"save": keptByURL, "restore": sizes, "miss": missing, "conflict": conflict, "quota": quota, "large": largeByURL, "concurrent": concurrent,
	} {
		cells[what] = cell{test: func(t *testing.T) { test(t, b) }}
	}
	return cells
}

func keptByURL(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	file, _ := w.file(3 * MiB)
	w.saves(cl, job(), "deps-1", file)
	w.hasOne("", 3*MiB)
}

func largeByURL(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	file, hash := w.file(40*MiB + 1)
	w.saves(cl, job(), "large", file)
	w.restores(cl, job(), "large", hash, "large")
}

// replaced: of a key that is put twice the second content holds.
func replaced(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	first, firstHash := w.file(1000)
	second, secondHash := w.file(1000)
	w.saves(cl, job(), "twice", first)
	w.restores(cl, job(), "twice", firstHash, "twice")
	w.saves(cl, job(), "twice", second)
	w.restores(cl, job(), "twice", secondHash, "twice")
	w.hasOne("", 1000)
}

// lastOfMany: of contents that are put at once none is refused, and one holds, whole.
func lastOfMany(t *testing.T, cl client) {
	w := newWorld(t, cache.Limits{})
	hashes := map[string]bool{}
	var all sync.WaitGroup
	for range 3 {
		file, hash := w.file(3 * MiB)
		hashes[hash] = true
		all.Go(func() {
			if got, log := cl.save(t.Context(), w, job(), "race", file); got != saved {
				t.Errorf("one of them: %s\n%s", got, log)
			}
		})
	}
	all.Wait()
	into := t.TempDir() + "/restored"
	if found, log := cl.restore(w, job(), into, "race"); found == "" || !hashes[w.hash(into)] {
		t.Errorf("found %q, whose content is none of theirs: %s", found, log)
	}
	w.hasOne("", 3*MiB)
}
