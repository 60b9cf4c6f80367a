package near

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

const (
	askTimeout = 15 * time.Second // to be told of which entry a content is
	idle       = time.Minute      // see transfer.Bounds
	longest    = 2 * time.Hour
)

// tier keeps contents that pass, and serves them. Who may have one, and whether
// there is one, the origin is asked each time; only the bytes, which never change,
// come from here.
type tier struct {
	origin    *url.URL
	transport http.RoundTripper
	next      http.Handler // passes on to the origin
	shelf     *shelf
	bounds    transfer.Bounds
	log       *slog.Logger
	tally     *tally
	stages    stages
	lists     atomic.Int64 // see maxLists

	mu    sync.Mutex
	fills map[name]*fill
	open  int // fills that run
	all   sync.WaitGroup
}

// ServeHTTP implements http.Handler.
func (t *tier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet && hasContents(r.URL.Path):
		t.get(w, r)
	case r.Method == http.MethodPut || r.Method == http.MethodPatch:
		t.put(w, r)
	default:
		t.next.ServeHTTP(w, r)
	}
}

// hasContents tells whether a GET may be answered by a content.
func hasContents(path string) bool {
	return strings.HasPrefix(path, "/_cache/entries/") || strings.HasPrefix(path, "/cache/")
}

// get answers with a content of this host's, with one that it fetches, or with
// what the origin says.
func (t *tier) get(w http.ResponseWriter, r *http.Request) {
	answer, err := t.ask(r)
	if err != nil {
		if r.Context().Err() == nil {
			t.log.WarnContext(r.Context(), "the cache can't be reached", "path", r.URL.Path, "error", err)
		}
		away(w, r)
		return
	}
	entry, known := transfer.TakeEntry(answer.header)
	n, ok := nameOf(entry)
	switch {
	case answer.status == http.StatusNotModified, answer.status == http.StatusPreconditionFailed:
		copyHeaders(w.Header(), answer.header)
		w.WriteHeader(answer.status)
		return
	case answer.status == http.StatusNotFound && strings.HasPrefix(r.URL.Path, "/cache/"):
		refuse(w, r, http.StatusNotFound, string(nimbus.CodeNotFound), "there is no such entry in the cache")
		return
	case answer.status != http.StatusOK || !known || !ok || entry.Size == 0 || answer.length != entry.Size:
		t.next.ServeHTTP(w, r) // it says why in the words of its protocol
		return
	}
	wanted, partial, err := transfer.Wanted(r.Header, entry.Size, answer.header.Get("ETag"))
	if err != nil {
		t.next.ServeHTTP(w, r)
		return
	}
	from, ok := t.find(r, n, entry.Size, wanted)
	if !ok {
		t.tally.passed.Add(1)
		t.next.ServeHTTP(w, r)
		return
	}
	defer from.leave()
	t.send(w, r, from, answer.header, entry, wanted, partial)
}

// asked are the headers by which the origin decides.
var asked = []string{"Authorization", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Accept", "User-Agent"}

// request is one to the origin for what a client asks for.
func (t *tier) request(ctx context.Context, r *http.Request, method string) (*http.Request, error) {
	to := *t.origin
	to.Path, to.RawPath, to.RawQuery = r.URL.Path, r.URL.RawPath, r.URL.RawQuery
	q, err := http.NewRequestWithContext(ctx, method, to.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask the origin: %w", err)
	}
	for _, header := range asked {
		if values := r.Header.Values(header); len(values) > 0 {
			q.Header[header] = values
		}
	}
	q.Host = r.Host
	return q, nil
}

// told is what the origin says of a content.
type told struct {
	status int
	header http.Header
	length int64
}

// ask asks the origin about a content, and not for it.
func (t *tier) ask(r *http.Request) (told, error) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	q, err := t.request(ctx, r, http.MethodHead)
	if err != nil {
		return told{}, err
	}
	answer, err := t.transport.RoundTrip(q)
	if err != nil {
		return told{}, fmt.Errorf("ask the origin: %w", err)
	}
	return told{answer.StatusCode, answer.Header, answer.ContentLength}, answer.Body.Close()
}

// find finds a content on the shelf, on its way there, or has it fetched.
func (t *tier) find(r *http.Request, n name, size int64, wanted transfer.Span) (source, bool) {
	if h, ok := t.shelf.take(n, size); ok {
		t.tally.hits.Add(1)
		return whole{t.shelf, h}, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f, ok := t.fills[n]; ok && f.size == size && (wanted.Offset == 0 || f.has(wanted.Offset)) && f.enter() {
		t.tally.joined.Add(1)
		return f, true
	}
	if h, ok := t.shelf.take(n, size); ok { // where it has come since it was looked for
		t.tally.hits.Add(1)
		return whole{t.shelf, h}, true
	}
	// A part alone is not worth the whole: the first who wants that has it fetched.
	if wanted.N != size {
		return nil, false
	}
	f, ok := t.fetch(r, n, size, t.shelf.claim)
	return f, ok
}

// fetch begins to fetch a content, whose bytes it claims. The caller holds the
// lock.
func (t *tier) fetch(r *http.Request, n name, size int64, claim func(int64) bool) (*fill, bool) {
	reserved := fillCost(size)
	if t.open >= maxFills || !t.shelf.fits(size) || !claim(reserved) {
		t.tally.refused.Add(1)
		return nil, false
	}
	// It goes on without the one who began it, for the others.
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), longest)
	q, err := t.request(ctx, r, http.MethodGet)
	if err != nil {
		stop()
		t.shelf.free(reserved)
		return nil, false
	}
	f := newFill(t.shelf, n, size, stop)
	f.enter()
	t.fills[n] = f
	t.open++
	t.tally.misses.Add(1)
	t.all.Go(func() {
		t.run(f, q, reserved)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.open--
		if t.fills[n] == f {
			delete(t.fills, n)
		}
	})
	return f, true
}

func (t *tier) run(f *fill, q *http.Request, reserved int64) {
	body := io.NopCloser(io.Reader(failing{errors.New("the origin has another content there")}))
	answer, err := t.transport.RoundTrip(q)
	if err != nil {
		body = io.NopCloser(failing{err})
	} else {
		defer answer.Body.Close()
		entry, known := transfer.TakeEntry(answer.Header)
		if n, ok := nameOf(entry); answer.StatusCode == http.StatusOK && known && ok && n == f.name && entry.Size == f.size {
			body = answer.Body
		}
	}
	w := newWatch(body, idle, f.stop)
	defer w.timer.Stop()
	f.run(w, reserved)
	t.tally.fetched.Add(f.size - f.left())
}

// failing is a body that can't be read.
type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) { return 0, f.err }

// send sends a content, or a part of it. Where this host's copy breaks off, the
// origin sends the rest.
func (t *tier) send(w http.ResponseWriter, r *http.Request, from source, header http.Header, entry transfer.Entry, wanted transfer.Span, partial bool) {
	// What is not there is found out before a status is sent.
	file, n, err := from.open(r.Context(), wanted.Offset)
	if err != nil {
		t.passOn(w, r, err)
		return
	}
	copyHeaders(w.Header(), header)
	w.Header().Set("Content-Length", strconv.FormatInt(wanted.N, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", wanted.ContentRange(entry.Size))
	}
	w.WriteHeader(status)
	out := t.bounds.Downstream(w)
	for err == nil && wanted.N > 0 {
		part := min(n, wanted.N)
		// A file in a LimitedReader, and nothing else around it, is sent by the kernel.
		sent, failed := io.Copy(out, &io.LimitedReader{R: file, N: part})
		_ = file.Close() // it was read
		t.tally.sent.Add(sent)
		wanted.Offset, wanted.N = wanted.Offset+sent, wanted.N-sent
		if failed != nil {
			t.brokeOff(r, failed)
		}
		if err = errShort; sent == part {
			err = nil
		}
		if err == nil && wanted.N > 0 {
			file, n, err = from.open(r.Context(), wanted.Offset)
		}
	}
	if wanted.N > 0 {
		t.rest(out, r, entry, wanted, err)
	}
}

var errShort = errors.New("a piece is shorter than it was")

// passOn has the origin answer where this host can't.
func (t *tier) passOn(w http.ResponseWriter, r *http.Request, why error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody waits any more
	}
	t.tally.passed.Add(1)
	t.log.DebugContext(r.Context(), "a content is not kept on this host", "path", r.URL.Path, "error", why)
	t.next.ServeHTTP(w, r)
}

// brokeOff ends an answer whose status is out: only a connection that breaks
// tells it.
func (t *tier) brokeOff(r *http.Request, why error) {
	t.log.DebugContext(r.Context(), "a download broke off", "path", r.URL.Path, "error", why)
	panic(http.ErrAbortHandler)
}

// rest sends what this host has not, as from the origin: of the same entry, since
// another may be under that URL by now.
func (t *tier) rest(out io.Writer, r *http.Request, entry transfer.Entry, left transfer.Span, why error) {
	if r.Context().Err() != nil {
		t.brokeOff(r, r.Context().Err())
	}
	t.log.WarnContext(r.Context(), "the rest of a content comes from the origin", "path", r.URL.Path, "error", why)
	q, err := t.request(r.Context(), r, http.MethodGet)
	if err != nil {
		t.brokeOff(r, err)
	}
	q.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", left.Offset, left.Offset+left.N-1))
	answer, err := t.transport.RoundTrip(q)
	if err != nil {
		t.brokeOff(r, err)
	}
	defer answer.Body.Close()
	got, err := transfer.ParseContentRange(answer.Header.Get("Content-Range"))
	now, known := transfer.TakeEntry(answer.Header)
	if answer.StatusCode != http.StatusPartialContent || err != nil || got != left || !known || now.OrgID != entry.OrgID || now.ID != entry.ID {
		t.brokeOff(r, fmt.Errorf("the origin answers %s, of entry %d and not %d", answer.Status, now.ID, entry.ID))
	}
	n, err := io.Copy(out, answer.Body)
	t.tally.passedBytes.Add(n)
	if err != nil || n != left.N {
		t.brokeOff(r, fmt.Errorf("%d of %d bytes came: %w", n, left.N, err))
	}
}

// hopByHop are headers of a connection, and those that are set anew.
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Content-Range"}

func copyHeaders(to, from http.Header) {
	maps.Copy(to, from)
	for _, header := range hopByHop {
		to.Del(header)
	}
}

// maintain holds the shelf to its bounds until ctx ends, then ends what is
// fetched.
func (t *tier) maintain(ctx context.Context, over func() int64) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		t.shelf.giveWay(over())
		t.stages.giveUp(time.Now().Add(-stageIdle))
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.mu.Lock()
			for _, f := range t.fills {
				f.stop()
			}
			t.mu.Unlock()
			t.all.Wait()
			t.stages.giveUp(time.Now().Add(time.Hour))
			return
		}
	}
}

// lookEvery is how often the disk is looked at.
const lookEvery = 15 * time.Second
