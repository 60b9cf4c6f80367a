package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

var followedKey = nimbus.LogKey{OrgID: "a", AttemptID: "x"}

// numberedLog is a log of so many lines; those from line 3000 on are large. Each org has
// its own.
type numberedLog struct {
	last  atomic.Int64
	reads atomic.Int64
}

func newNumberedLog(last int64) *numberedLog {
	l := &numberedLog{}
	l.last.Store(last)
	return l
}

func (l *numberedLog) Read(_ context.Context, key nimbus.LogKey, from int64, limit int) (page []nimbus.Line, err error) {
	l.reads.Add(1)
	for seq := from; seq < from+int64(limit) && seq <= l.last.Load(); seq++ {
		page = append(page, numberedLine(key, seq))
	}
	return page, nil
}

func numberedLine(key nimbus.LogKey, seq int64) nimbus.Line {
	long := 0
	if seq >= 3000 {
		long = 60 << 10
	}
	return nimbus.Line{Seq: seq, Stream: nimbus.StreamStdout, Text: fmt.Sprint(key.OrgID, seq, strings.Repeat("x", long))}
}

// readSent reads a page as a follower does, and what it sends of it.
func readSent(t *testing.T, w *logWindow, from int64, limit int) (page []nimbus.Line, events []event) {
	t.Helper()
	page, err := w.Read(t.Context(), w.key, from, limit)
	if err != nil || len(page) == 0 {
		t.Fatalf("read lines from %d on: %d, %v", from, len(page), err)
	}
	if events, err = w.sent(page); err != nil || len(events) != len(page) {
		t.Fatalf("%d events of %d lines, %v", len(events), len(page), err)
	}
	return page, events
}

// TestLinesAreReadOnce, and encoded once, of a log that two follow, one of whom is later;
// of a log that one follows nothing is kept.
func TestLinesAreReadOnce(t *testing.T) {
	t.Parallel()
	store := newNumberedLog(1000)
	l := newFollowedLogs(store)
	one, oneLeaves := l.follow(followedKey)
	readSent(t, one, 1, 10)
	if len(one.lines) != 0 {
		t.Error("what one reader has is kept")
	}
	two, twoLeaves := l.follow(followedKey)
	if two != one {
		t.Fatal("two who follow one log share nothing")
	}
	_, a := readSent(t, one, 11, 10)
	before := store.reads.Load()
	page, b := readSent(t, two, 15, 20)
	if len(page) != 6 || store.reads.Load() != before {
		t.Errorf("%d lines, by %d reads of the store", len(page), store.reads.Load()-before)
	}
	for i := range b {
		if &a[4+i].frame[0] != &b[i].frame[0] {
			t.Errorf("line %d was encoded twice", 15+i)
		}
	}
	_, c := readSent(t, two, 21, 14)
	if _, d := readSent(t, one, 34, 1); &c[13].frame[0] != &d[0].frame[0] {
		t.Error("what the later one read is not shared")
	}
	other, otherLeaves := l.follow(nimbus.LogKey{OrgID: "b", AttemptID: "x"})
	if page, _ := readSent(t, other, 11, 1); page[0].Text != "b11" {
		t.Errorf("another org's reader got %q", page[0].Text)
	}
	oneLeaves()
	twoLeaves()
	otherLeaves()
	if len(l.windows) != 0 {
		t.Errorf("%d logs that nobody follows", len(l.windows))
	}
}

// TestWindowHasTheLines: whoever reads where, each gets the lines that it asked for, and
// what is kept has bounds.
func TestWindowHasTheLines(t *testing.T) {
	t.Parallel()
	l := newFollowedLogs(newNumberedLog(3600))
	var readers sync.WaitGroup
	for r := range 8 {
		w, leave := l.follow(followedKey)
		readers.Go(func() {
			defer leave()
			random := rand.New(rand.NewPCG(1, uint64(r)))
			most := 500
			for from := int64(1 + random.IntN(1000)); from < 3500; from = max(1, from+int64(random.IntN(most)-most/8)) {
				if from > 2500 {
					most = 20
				}
				if !readsRight(t, w, from, 1+random.IntN(most)) {
					return
				}
			}
		})
	}
	readers.Wait()
}

func readsRight(t *testing.T, w *logWindow, from int64, limit int) bool {
	t.Helper()
	page, err := w.Read(t.Context(), w.key, from, limit)
	if err != nil || len(page) == 0 || len(page) > limit {
		t.Errorf("read %d lines from %d on: %d, %v", limit, from, len(page), err)
		return false
	}
	events, err := w.sent(page)
	if err != nil || len(events) != len(page) {
		t.Errorf("%d events of %d lines, %v", len(events), len(page), err)
		return false
	}
	for i, line := range page {
		wanted := numberedLine(w.key, from+int64(i))
		want, err := lineEvent("x", wanted)
		if err != nil || line != wanted || events[i].id != want.id || !bytes.Equal(events[i].frame, want.frame) {
			t.Errorf("line %d is line %d, sent as %.200s", wanted.Seq, line.Seq, events[i].frame)
			return false
		}
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	size := 0
	for i := range w.lines {
		size += cost(w.lines[i], w.events[i])
	}
	if size != w.size || size > windowLeast || len(w.lines) != len(w.events) {
		t.Errorf("%d lines and %d events of %d bytes are kept, %d by its account", len(w.lines), len(w.events), size, w.size)
		return false
	}
	return true
}

// TestWindowGrowsWithReaders, so that those who are behind others find what these read.
func TestWindowGrowsWithReaders(t *testing.T) {
	t.Parallel()
	store := newNumberedLog(2900)
	l := newFollowedLogs(store)
	w, leave := l.follow(followedKey)
	defer leave()
	for range 40 {
		_, leave := l.follow(followedKey)
		defer leave()
	}
	for from := int64(1); from < 2900; from += 100 {
		readSent(t, w, from, 100)
	}
	before := store.reads.Load()
	for from := int64(1); from < 2900; from += 100 {
		readSent(t, w, from, 100)
	}
	if n := store.reads.Load() - before; n != 0 {
		t.Errorf("%d reads of what others had read before", n)
	}
}

// TestWindowSkipsDamage: lines with a gap between them are not taken for lines that follow
// each other.
func TestWindowSkipsDamage(t *testing.T) {
	t.Parallel()
	w := &logWindow{key: followedKey, store: newNumberedLog(100)}
	w.readers.Store(2)
	readSent(t, w, 1, 10)
	readSent(t, w, 21, 10)
	if page, _ := readSent(t, w, 5, 10); page[0].Seq != 5 || len(page) != 10 {
		t.Errorf("%d lines from %d on", len(page), page[0].Seq)
	}
	if page, _ := readSent(t, w, 25, 10); page[0].Seq != 25 {
		t.Errorf("line %d for line 25", page[0].Seq)
	}
	if w.wants([]nimbus.Line{{Seq: 31}, {Seq: 33}}) {
		t.Error("a page with a gap is wanted")
	}
}

// gatedReader answers once it is let.
type gatedReader struct {
	reads   atomic.Int64
	began   chan struct{} // closed with the first
	release chan struct{}
}

func (r *gatedReader) Read(context.Context, nimbus.LogKey, int64, int) ([]nimbus.Line, error) {
	if r.reads.Add(1) == 1 {
		close(r.began)
	}
	<-r.release
	return []nimbus.Line{{Seq: 7}}, nil
}

// waitedFor is a context that tells when its end is waited for: once a reader has
// asked, and not before.
type waitedFor struct {
	context.Context //nolint:containedctx // it is one

	waits func()
}

// Done implements context.Context.
func (w waitedFor) Done() <-chan struct{} {
	w.waits()
	return w.Context.Done()
}

// TestAThousandReadersShareARead: also when the one who came first has gone.
func TestAThousandReadersShareARead(t *testing.T) {
	t.Parallel()
	r := &gatedReader{began: make(chan struct{}), release: make(chan struct{})}
	w, leave := newFollowedLogs(r).follow(followedKey)
	defer leave()
	ctx, leaves := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := w.Read(ctx, followedKey, 7, 500)
		first <- err
	}()
	<-r.began
	leaves()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	var all, joined sync.WaitGroup
	for range 1000 {
		joined.Add(1)
		ctx := waitedFor{t.Context(), sync.OnceFunc(joined.Done)}
		all.Go(func() {
			lines, err := w.Read(ctx, followedKey, 7, 500)
			if err != nil || len(lines) != 1 {
				t.Errorf("%v, %v", lines, err)
			}
		})
	}
	joined.Wait()
	close(r.release)
	all.Wait()
	if n := r.reads.Load(); n != 1 {
		t.Errorf("%d reads for 1000 readers", n)
	}
}

// lateReader is a log whose only line comes after its first read began.
type lateReader struct {
	reads   atomic.Int64
	began   chan struct{}
	release chan struct{}
}

func (r *lateReader) Read(_ context.Context, _ nimbus.LogKey, from int64, _ int) ([]nimbus.Line, error) {
	if r.reads.Add(1) == 1 {
		close(r.began)
		<-r.release
		return nil, nil
	}
	if from > 1 {
		return nil, nil
	}
	return []nimbus.Line{{Seq: 1}}, nil
}

// TestTheLastReadIsFresh: who is told that a log is over gets its last lines, although
// another's read, which began before they came, goes on.
func TestTheLastReadIsFresh(t *testing.T) {
	t.Parallel()
	r := &lateReader{began: make(chan struct{}), release: make(chan struct{})}
	w, leave := newFollowedLogs(r).follow(followedKey)
	defer leave()
	other := make(chan struct{})
	go func() {
		defer close(other)
		_, _ = w.Read(t.Context(), followedKey, 1, 500) // as logs.Tail asks
	}()
	<-r.began
	defer func() { <-other }()
	time.AfterFunc(200*time.Millisecond, func() { close(r.release) })
	f := &counting{}
	err := logs.Tail(t.Context(), w, bus.NewInProcess(), followedKey, 1, f)
	if err != nil || f.lines != 1 {
		t.Errorf("%d lines, %v", f.lines, err)
	}
}

// counting follows a log that is over.
type counting struct{ lines int }

func (*counting) Over(context.Context) (bool, error) { return true, nil }

func (*counting) Damaged(context.Context, *logs.DamagedError) error { return nil }

func (c *counting) Lines(page []nimbus.Line) error {
	c.lines += len(page)
	return nil
}

// pieces is who takes a stream: each write by itself.
type pieces struct {
	header  http.Header
	written [][]byte
	flushed int // up to which write
}

func (p *pieces) Header() http.Header            { return p.header }
func (*pieces) WriteHeader(int)                  {}
func (*pieces) SetWriteDeadline(time.Time) error { return nil }
func (p *pieces) FlushError() error              { p.flushed = len(p.written); return nil }
func (p *pieces) Write(some []byte) (n int, _ error) {
	p.written = append(p.written, bytes.Clone(some))
	return len(some), nil
}

// TestSentInPieces: a page goes out in the order of its lines, whole, and no piece of it
// is larger than what is kept for a slow reader, but for a line that is.
func TestSentInPieces(t *testing.T) {
	t.Parallel()
	to := &pieces{header: http.Header{}}
	s, err := newEventStream(to)
	if err != nil {
		t.Fatal(err)
	}
	w := &logWindow{key: followedKey, store: newNumberedLog(5000)}
	_, short := readSent(t, w, 2000, 500)
	_, mixed := readSent(t, w, 2995, 10)
	fault := event{name: "fault", data: map[string]string{"reason": "it is over"}}
	want := []byte(":\n\n")
	for _, e := range append(append(short, mixed...), short[0]) {
		want = append(want, e.frame...)
	}
	want = append(want, "event: fault\ndata: {\"reason\":\"it is over\"}\n\n"...)
	for _, page := range [][]event{short, append(append([]event{}, mixed...), short[0], fault)} {
		if err := s.send(page...); err != nil {
			t.Fatal(err)
		}
		if to.flushed != len(to.written) {
			t.Error("what was sent waits")
		}
	}
	if got := bytes.Join(to.written, nil); !bytes.Equal(got, want) {
		t.Errorf("%d bytes were sent, not the %d of the lines", len(got), len(want))
	}
	for _, piece := range to.written {
		if len(piece) > sendPiece && bytes.Count(piece, []byte(eventEnd)) != 1 {
			t.Errorf("a piece of %d bytes", len(piece))
		}
	}
}
