package cache_test

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
)

// host is a world as the jobs of a host see it: through its door, which keeps what
// passes.
type host struct {
	*world

	origin string // where the server itself is
	dir    string
	door   *near.Door
	stop   func()
	// asked and sent are how often the server was asked for contents, and sent any.
	asked, sent *atomic.Int64
}

// throughHost has clients go through a host from now on.
func (w *world) throughHost(bytes int64) *host {
	w.t.Helper()
	h := &host{world: w, origin: w.url, dir: w.t.TempDir(), asked: &atomic.Int64{}, sent: &atomic.Int64{}}
	before := w.before
	w.before = func(r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_cache/entries/") {
			if r.Method == http.MethodGet {
				h.sent.Add(1)
			}
			h.asked.Add(1)
		}
		before(r)
	}
	h.start(bytes)
	return h
}

// start starts the host's door, or another in its place.
func (h *host) start(bytes int64) {
	h.t.Helper()
	h.door, h.stop = h.open(h.dir, bytes)
	h.url = "http://" + h.door.Addr()
}

// beside is the URL of another host's door.
func (h *host) beside(bytes int64) string {
	h.t.Helper()
	door, _ := h.open(h.t.TempDir(), bytes)
	return "http://" + door.Addr()
}

func (h *host) open(dir string, bytes int64) (door *near.Door, stop func()) {
	h.t.Helper()
	log := slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	door, err := near.Open(near.Config{Server: h.origin, Dir: dir, Bytes: bytes, Log: log})
	h.must(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- door.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
	})
	h.t.Cleanup(stop)
	h.wait("the door", func() bool { return door.Figures().Limit == bytes })
	return door, stop
}

func trustHost(cfg *actions.Config) { cfg.PublicURL, cfg.TrustHost = "", true }

func newHost(t testing.TB, bytes int64) *host {
	t.Helper()
	return newWorld(t, cache.Limits{}, trustHost).throughHost(bytes)
}

// kept fails unless the server has sent contents so often.
func (h *host) sends(want int64) {
	h.t.Helper()
	if got := h.sent.Load(); got != want {
		h.t.Errorf("the server has sent %d contents, want %d; %+v", got, want, h.door.Figures())
	}
}

// files are the files that a host keeps.
func (h *host) files() (files []string) {
	h.t.Helper()
	h.must(filepath.WalkDir(h.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, strings.TrimPrefix(path, h.dir+"/"))
		}
		return err
	}))
	return files
}

// TestNearKeepsWhatIsSaved: the next job on the host reads from its disk, any part
// of it, and the server only says that it may.
func TestNearKeepsWhatIsSaved(t *testing.T) {
	t.Parallel()
	h := newHost(t, 100*MiB)
	me := h.as(job())
	target := me.uploadURL("k")
	blocks := []string{strings.Repeat("a", 3*MiB), strings.Repeat("b", MiB+1), "c", ""}
	for _, i := range []int{2, 0, 3, 1} {
		if a := me.putBlock(target, strconv.Itoa(i), blocks[i]); a.status != http.StatusCreated || a.header.Get("Nimbus-Cache-Upload") != "" {
			t.Fatal(a.status, a.header, a.body)
		}
	}
	me.putBlock(target, "not needed", "x")
	me.putList(target, "0", "1", "3", "2")
	want := strings.Join(blocks, "")
	if a := me.finalize("k", len(want)); !a.ok() || a.header.Get("Nimbus-Cache-Entry") != "" {
		t.Fatal(a.header, a.body)
	}
	me.keep("whole", "in one piece")
	h.holds(me, "k", want)
	h.holds(me, "whole", "in one piece")
	get := me.find("k").text("signed_download_url")
	for header, from := range map[string]int{"Range": 5, "x-ms-range": 3*MiB + 7} {
		a := me.send("GET", get, nil, header, "bytes="+strconv.Itoa(from)+"-")
		if a.status != http.StatusPartialContent || a.body != want[from:] || a.header.Get("Content-Range") != "bytes "+strconv.Itoa(from)+"-"+strconv.Itoa(len(want)-1)+"/"+strconv.Itoa(len(want)) {
			t.Errorf("%s: %d, %v, %d bytes", header, a.status, a.header, len(a.body))
		}
	}
	if a := me.send("GET", get, nil, "Range", "bytes=99999999-"); a.status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("behind the end: %d", a.status)
	}
	h.sends(1) // that refusal
	if f := h.door.Figures(); f.Saved != 2 || f.Hits != 4 || f.Misses != 0 || f.Entries != 2 {
		t.Errorf("%+v", f)
	}
}

// holds fails unless a key finds a content.
func (h *host) holds(me raw, key, want string) {
	h.t.Helper()
	if got, ok := me.content(key); !ok || got != want {
		h.t.Errorf("%q holds %d bytes, %t, want %d", key, len(got), ok, len(want))
	}
}

// TestNearFetchesOnce: of many jobs that restore the same at once, one alone has
// the server send it, and one that reads slowly or leaves holds up nobody.
func TestNearFetchesOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{}, trustHost)
	want := strings.Repeat("0123456789abcdef", 5*MiB/16) + "end"
	w.as(job()).keep("k", want)
	h := w.throughHost(100 * MiB)
	me := h.as(job())
	get := me.find("k").text("signed_download_url")
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	h.wrap = func(rw http.ResponseWriter) http.ResponseWriter { return held{rw, hold} }
	gone, leave := context.WithCancel(t.Context())
	first, err := http.NewRequestWithContext(gone, http.MethodGet, get, nil)
	h.must(err)
	left := make(chan struct{})
	go func() {
		defer close(left)
		if a, err := http.DefaultClient.Do(first); err == nil {
			a.Body.Close()
		}
	}()
	h.wait("the first", func() bool { return h.door.Figures().Misses == 1 })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if a := me.send("GET", get, nil); a.status != http.StatusOK || a.body != want {
				t.Errorf("%d with %d bytes", a.status, len(a.body))
			}
		})
	}
	h.wait("the others", func() bool { return h.door.Figures().Joined == 8 })
	leave()
	<-left
	release()
	all.Wait()
	h.wait("it is kept", func() bool { return h.door.Figures().Entries == 1 }) // a moment after all of it was sent
	h.holds(me, "k", want)
	h.sends(1)
}

// held is an answer whose body waits.
type held struct {
	http.ResponseWriter

	until chan struct{}
}

func (h held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h held) Write(p []byte) (int, error) {
	<-h.until
	return h.ResponseWriter.Write(p)
}

// wait waits until something is so.
func (w *world) wait(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: in a minute it is not so", what)
		}
	}
}

// TestNearAsksTheServer: what a host has is nobody's who may not have it now.
func TestNearAsksTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{}, trustHost)
	h := w.throughHost(100 * MiB)
	me := h.as(job())
	me.keep("k", "mine")
	h.holds(me, "k", "mine")
	get := me.find("k").text("signed_download_url")
	other := w.otherOrg()
	unsigned, _, _ := strings.Cut(get, "?")
	h.refused("another org in the URL", me.send("GET", strings.Replace(get, job().OrgID, other, 1), nil), http.StatusForbidden)
	h.refused("another signature", me.send("GET", get[:len(get)-3]+"AAA", nil), http.StatusForbidden)
	h.refused("no signature", me.send("GET", unsigned, nil), http.StatusForbidden)
	entries, _, err := w.cache.List(t.Context(), job().OrgID, job().Repo, cache.Filter{}, nimbus.PageRequest{Size: 10})
	w.must(err)
	w.must(w.cache.Remove(t.Context(), job().OrgID, entries[0].ID))
	h.refused("removed", me.send("GET", get, nil), http.StatusNotFound)
	if f := h.door.Figures(); f.Hits != 1 {
		t.Errorf("%+v", f)
	}
}

// TestNearForgets: only as much is kept as may be, the last used of it.
func TestNearForgets(t *testing.T) {
	t.Parallel()
	h := newHost(t, 4*MiB+512<<10) // of which a quarter is set aside
	me := h.as(job())
	content := func(key string) string { return strings.Repeat(key, MiB) }
	for _, key := range []string{"a", "b", "c"} {
		me.keep(key, content(key))
	}
	h.holds(me, "a", content("a"))
	me.keep("d", content("d")) // for which b goes
	for _, key := range []string{"a", "c", "d"} {
		h.holds(me, key, content(key))
	}
	h.sends(0)
	h.holds(me, "b", content("b"))
	h.sends(1)
	h.wait("b is kept, for which another goes", func() bool { return h.door.Figures().Evicted == 2 })
	if f := h.door.Figures(); f.Bytes > f.Limit || f.Entries != 3 {
		t.Errorf("%+v", f)
	}
	large := strings.Repeat("x", 4*MiB)
	me.keep("large", large)
	h.holds(me, "large", large)
	h.holds(me, "b", content("b"))
	if f := h.door.Figures(); f.Evicted != 2 || f.Passed != 1 {
		t.Errorf("what can't fit: %+v", f)
	}
}

// TestNearStartsAnew: what was kept is there after a restart, but for what is
// broken, which nobody gets.
func TestNearStartsAnew(t *testing.T) {
	t.Parallel()
	h := newHost(t, 100*MiB)
	me := h.as(job())
	want := map[string]string{}
	for _, key := range []string{"sound", "changed", "cut", "without a manifest", "without a piece"} {
		want[key] = strings.Repeat(key, MiB/len(key))
		me.keep(key, want[key])
	}
	folders := map[string]string{}
	for _, file := range h.files() {
		if dir, name := filepath.Split(file); name == "0" {
			raw, err := os.ReadFile(filepath.Join(h.dir, file))
			h.must(err)
			for key, content := range want {
				if string(raw) == content {
					folders[key] = filepath.Join(h.dir, dir)
				}
			}
		}
	}
	h.stop()
	if len(folders) != len(want) {
		t.Fatalf("%v", folders)
	}
	raw := []byte(want["changed"])
	raw[len(raw)/2] ^= 1
	h.must(os.WriteFile(filepath.Join(folders["changed"], "0"), raw, 0o600))
	h.must(os.Truncate(filepath.Join(folders["cut"], "0"), 100))
	h.must(os.Remove(filepath.Join(folders["without a manifest"], "manifest.json")))
	h.must(os.Remove(filepath.Join(folders["without a piece"], "0")))
	h.must(os.WriteFile(filepath.Join(h.dir, "drafts", "left by a crash"), raw, 0o600))
	h.start(100 * MiB)
	if f := h.door.Figures(); f.Entries != 2 || f.Bytes > 2*MiB+64<<10 {
		t.Errorf("after a restart: %+v", f)
	}
	if slices.ContainsFunc(h.files(), func(f string) bool { return strings.HasPrefix(f, "drafts/") }) {
		t.Errorf("what a crash left is there: %v", h.files())
	}
	me = h.as(job())
	for _, key := range []string{"sound", "changed", "cut", "without a manifest", "without a piece", "changed"} {
		h.holds(me, key, want[key])
	}
	h.sends(5) // the first of changed is passed on, the second fetched
	if f := h.door.Figures(); f.Corrupt != 1 {
		t.Errorf("%+v", f)
	}
}

// TestNearWithoutServer: a host does not say by itself who may have what.
func TestNearWithoutServer(t *testing.T) {
	t.Parallel()
	h := newHost(t, 100*MiB)
	me := h.as(job())
	me.keep("k", "content")
	get := me.find("k").text("signed_download_url")
	h.stop()
	h.origin = "http://127.0.0.1:1"
	h.start(100 * MiB)
	if a := me.send("GET", at(h.url, get), nil); a.status != http.StatusNotFound || strings.Contains(a.body, "content") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if f := h.door.Figures(); f.Entries != 1 || f.Hits != 0 {
		t.Errorf("%+v", f)
	}
}

// at is a signed URL as of another server.
func at(server, signed string) string {
	_, path, _ := strings.Cut(signed, "/_cache/")
	return server + "/_cache/" + path
}

// TestNearDoesNotGuess: where it is not sure which bytes the server has, a host
// keeps none.
func TestNearDoesNotGuess(t *testing.T) {
	t.Parallel()
	h := newHost(t, 100*MiB)
	me := h.as(job())
	save := func(key, want string, parts func(target string)) {
		parts(me.uploadURL(key))
		if a := me.finalize(key, len(want)); !a.ok() {
			t.Fatal(key, a.body)
		}
		h.holds(me, key, want)
	}
	save("a block twice, otherwise", "second", func(target string) {
		me.putBlock(target, "1", "first")
		me.putBlock(target, "1", "second")
		me.putList(target, "1")
	})
	save("a block twice, the same", "same", func(target string) {
		me.putBlock(target, "1", "same")
		me.putBlock(target, "1", "same")
		me.putList(target, "1")
	})
	save("in part past the host", "12", func(target string) {
		me.putBlock(target, "1", "1")
		me.putBlock(at(h.origin, target), "2", "2")
		me.putList(target, "1", "2")
	})
	save("two lists", "21", func(target string) {
		me.putBlock(target, "1", "1")
		me.putBlock(target, "2", "2")
		me.putList(target, "1", "2")
		me.putList(target, "2", "1")
	})
	if f := h.door.Figures(); f.Saved != 1 || f.Misses != 3 {
		t.Errorf("%+v", f)
	}
	var drafts []string
	for _, f := range h.files() {
		if strings.HasPrefix(f, "drafts/") {
			drafts = append(drafts, f)
		}
	}
	if f := h.door.Figures(); len(drafts) > 0 || f.Bytes > f.Entries*3*4096 {
		t.Errorf("left over: %v, %+v", drafts, f)
	}
}

// TestNearHasWhatTheServerHas: bytes that came to the server past the host, or
// from it without that its answer came back, are what the host gives, too.
func TestNearHasWhatTheServerHas(t *testing.T) {
	t.Parallel()
	h := newHost(t, 100*MiB)
	other := h.beside(100 * MiB)
	me := h.as(job())
	// lose has the server do what it is asked, and its answer not come back.
	lose := func(do func() answer) {
		t.Helper()
		h.wrap = func(rw http.ResponseWriter) http.ResponseWriter { return lost{rw} }
		if a := do(); a.status < 400 {
			t.Errorf("the answer is lost, and is %d", a.status)
		}
		h.wrap = func(rw http.ResponseWriter) http.ResponseWriter { return rw }
	}
	const mine, theirs = "XXXXXXXX", "YYYYYYYY"
	for key, c := range map[string]struct {
		put  func(target string)
		want string
		kept int64 // as it was saved
	}{
		"a block past the host": {func(target string) {
			me.putBlock(target, "1", mine)
			me.putBlock(at(h.origin, target), "1", theirs)
			me.putList(target, "1")
		}, theirs, 0},
		"a block through another host": {func(target string) {
			me.putBlock(target, "1", mine)
			me.putBlock(at(other, target), "1", theirs)
			me.putList(target, "1")
		}, theirs, 0},
		"a block whose answer is lost": {func(target string) {
			me.putBlock(target, "1", mine)
			lose(func() answer { return me.putBlock(target, "1", theirs) })
			me.putList(target, "1")
		}, theirs, 0},
		"an order past the host": {func(target string) {
			me.putBlock(target, "1", mine)
			me.putBlock(target, "2", theirs)
			me.putList(target, "1", "2")
			me.putList(at(h.origin, target), "2", "1")
		}, theirs + mine, 0},
		"all of it past the host": {func(target string) {
			me.putBlob(target, mine)
			me.putBlob(at(h.origin, target), theirs)
		}, theirs, 0},
		"the same, twice": {func(target string) {
			me.putBlock(target, "1", mine)
			lose(func() answer { return me.putBlock(target, "1", mine) })
			me.putBlock(at(h.origin, target), "1", mine)
			me.putList(target, "1")
		}, mine, 1},
	} {
		before := h.door.Figures().Saved
		c.put(me.uploadURL(key))
		if a := me.finalize(key, len(c.want)); !a.ok() {
			t.Fatal(key, a.body)
		}
		if got := h.door.Figures().Saved - before; got != c.kept {
			t.Errorf("%s: %d are kept as they were saved, want %d", key, got, c.kept)
		}
		h.holds(me, key, c.want)
		h.holds(me, key, c.want)
	}
	before := h.door.Figures().Saved
	me.putBlob(me.uploadURL("twice"), mine)
	lose(func() answer { return me.finalize("twice", len(mine)) })
	if a := me.finalize("twice", len(mine)); !a.ok() || h.door.Figures().Saved != before+1 {
		t.Errorf("a commit whose answer was lost: %s, %+v", a.body, h.door.Figures())
	}
	h.holds(me, "twice", mine)
}

// lost is an answer that does not come back.
type lost struct{ http.ResponseWriter }

func (l lost) Unwrap() http.ResponseWriter { return l.ResponseWriter }
func (lost) WriteHeader(int)               { panic(http.ErrAbortHandler) }
func (lost) Write([]byte) (int, error)     { panic(http.ErrAbortHandler) }

// TestNearClients: what every client does alike, through a host.
func TestNearClients(t *testing.T) {
	for name, c := range clients(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, 500*MiB)
			h.restores(c, job(), "", "", "nothing-yet", "nothing-")
			for _, size := range []int64{1, MiB, 40*MiB + 1} {
				file, hash := h.file(size)
				key := "size-" + strconv.FormatInt(size, 10)
				h.saves(c, job(), key, file)
				h.restores(c, job(), key, hash, key)
			}
			h.sends(0)
			if f := h.door.Figures(); f.Saved != 3 || f.Hits < 3 {
				t.Errorf("%+v", f)
			}
			if got, log := c.save(t.Context(), h.world, job(readOnly), "mine", filepath.Join(h.dir, h.files()[0])); got != refused {
				t.Errorf("a save that is not allowed: %s\n%s", got, log)
			}
		})
	}
}

// TestNearWithoutBlobs: while the object store is away a host restores what it has;
// what it has not the clients go on without, and they say nothing that is wrong.
func TestNearWithoutBlobs(t *testing.T) {
	for name, c := range clients(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, cache.Limits{}, trustHost)
			file, _ := w.file(MiB)
			w.saves(c, job(), "elsewhere", file)
			h := w.throughHost(100 * MiB)
			file, hash := h.file(5 * MiB)
			h.saves(c, job(), "here", file)
			w.away.Store(true)
			h.restores(c, job(), "here", hash, "here")
			began := time.Now()
			h.misses(c, "elsewhere")
			t.Logf("%s goes on without after %s", name, time.Since(began).Round(time.Millisecond))
			began = time.Now()
			c.save(t.Context(), h.world, job(), "not now", file) // of which version 1 of @actions/cache only warns
			t.Logf("%s gives a save up after %s", name, time.Since(began).Round(time.Millisecond))
			w.away.Store(false)
			h.restores(c, job(), "", "", "not now")
			h.restores(c, job(), "here", hash, "here")
		})
	}
}

// misses fails where a client has something for a key, or fails its job.
func (h *host) misses(c client, key string) {
	h.t.Helper()
	into := filepath.Join(h.t.TempDir(), "restored")
	var found, log string
	switch c := c.(type) {
	case script:
		found, log = c.restore(h.world, job(), into, key)
	case goClient: // whose caller is told, as BuildKit is, which goes on
		var code int
		if found, log, code = c.run(h.t.Context(), h.world, job(), "load", into, key); code != 0 {
			found = ""
		}
	}
	if found != "" || h.hash(into) != "" && h.hash(into) != sum("") {
		h.t.Errorf("found %q\n%s", found, log)
	}
}
