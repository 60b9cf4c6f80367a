package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// Bounds of what is kept of a log that many follow, in bytes: the more there are, the
// further apart they come to be. Who is behind all of it reads for itself.
const (
	windowLeast = 512 << 10
	windowEach  = 64 << 10 // of each reader
	windowMost  = 4 << 20
	// lineCost is what a line takes beside its text and what is sent.
	lineCost = 200
)

// sharedTimeout bounds a read that many wait for: it does not end with the one of
// them who came first.
const sharedTimeout = 30 * time.Second

// followedLogs has those who follow the same log share what they read and send: a line is
// read and encoded once. It keeps nothing of a log that has one reader, or none.
type followedLogs struct {
	store   logs.Reader
	mu      sync.Mutex
	windows map[nimbus.LogKey]*logWindow
}

func newFollowedLogs(store logs.Reader) *followedLogs {
	return &followedLogs{store: store, windows: map[nimbus.LogKey]*logWindow{}}
}

// logWindow reads one log for those who follow it, and keeps its last lines.
type logWindow struct {
	key     nimbus.LogKey
	store   logs.Reader
	reads   singleflight.Group
	readers atomic.Int64 // changed with the mutex of followedLogs

	mu sync.RWMutex
	// Each line follows the one before, and has its event. Nothing is changed in them:
	// readers have parts of both.
	lines  []nimbus.Line
	events []event
	size   int
}

var _ logs.Fresher = (*logWindow)(nil)

// follow is for a reader that begins; it leaves in the end.
func (l *followedLogs) follow(key nimbus.LogKey) (w *logWindow, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w = l.windows[key]
	if w == nil {
		w = &logWindow{key: key, store: l.store}
		l.windows[key] = w
	}
	w.readers.Add(1)
	return w, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if w.readers.Add(-1) == 0 {
			delete(l.windows, key)
		}
	}
}

// Read implements logs.Reader. Nobody changes what they get.
func (w *logWindow) Read(ctx context.Context, _ nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	if page := w.kept(from, limit); len(page) > 0 {
		return page, nil
	}
	read := w.reads.DoChan(fmt.Sprintf("%d/%d", from, limit), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedTimeout)
		defer cancel()
		page, err := w.store.Read(ctx, w.key, from, limit)
		if err != nil {
			return nil, err
		}
		return page, w.keep(page)
	})
	select {
	case r := <-read:
		page, _ := r.Val.([]nimbus.Line)
		return page, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Fresh implements logs.Fresher.
func (w *logWindow) Fresh() logs.Reader { return freshLog{w} }

// freshLog waits for nobody's read that began before its own.
type freshLog struct{ window *logWindow }

// Read implements logs.Reader.
func (f freshLog) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	if page := f.window.kept(from, limit); len(page) > 0 {
		return page, nil
	}
	return f.window.store.Read(ctx, key, from, limit)
}

// kept are lines from number from on, as many as are kept; none if that one is not.
func (w *logWindow) kept(from int64, limit int) []nimbus.Line {
	w.mu.RLock()
	defer w.mu.RUnlock()
	begin, end, ok := w.place(from, limit)
	if !ok {
		return nil
	}
	return w.lines[begin:end:end]
}

// place is where up to limit lines from number from on are; with the mutex.
func (w *logWindow) place(from int64, limit int) (begin, end int, ok bool) {
	if len(w.lines) == 0 || from < w.lines[0].Seq || from > w.lines[len(w.lines)-1].Seq {
		return 0, 0, false
	}
	begin = int(from - w.lines[0].Seq)
	return begin, min(begin+limit, len(w.lines)), true
}

// sent are lines of the log as they are sent.
func (w *logWindow) sent(page []nimbus.Line) ([]event, error) {
	if events := w.known(page); len(events) == len(page) {
		return events, nil
	}
	return encodeLines(w.key.AttemptID, page)
}

// known are the events of those lines of a page that are kept, from its first on.
func (w *logWindow) known(page []nimbus.Line) []event {
	w.mu.RLock()
	defer w.mu.RUnlock()
	begin, end, ok := w.place(page[0].Seq, len(page))
	if !ok {
		return nil
	}
	return w.events[begin:end:end]
}

// keep keeps a page for the others, as far as it goes on where what is kept ends. What is
// further back is left to who wants it.
func (w *logWindow) keep(page []nimbus.Line) error {
	if w.readers.Load() < 2 || !w.wants(page) {
		return nil
	}
	events, err := encodeLines(w.key.AttemptID, page)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	first, next := page[0].Seq, w.next()
	switch {
	case len(w.lines) == 0 || first > next: // there is a gap: what is new is wanted more
		w.lines, w.events, w.size = nil, nil, 0
	case first < w.lines[0].Seq || page[len(page)-1].Seq < next:
		return nil
	default:
		page, events = page[next-first:], events[next-first:]
	}
	w.lines, w.events = append(w.lines, page...), append(w.events, events...)
	for i := range page {
		w.size += cost(page[i], events[i])
	}
	w.shrink(min(windowMost, max(windowLeast, int(w.readers.Load())*windowEach)))
	return nil
}

// wants tells whether a page has lines behind all that are kept.
func (w *logWindow) wants(page []nimbus.Line) bool {
	if len(page) == 0 || page[len(page)-1].Seq-page[0].Seq != int64(len(page)-1) {
		return false
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return len(w.lines) == 0 || page[0].Seq >= w.lines[0].Seq && page[len(page)-1].Seq >= w.next()
}

// next is the number of the line behind those that are kept; with the mutex.
func (w *logWindow) next() int64 {
	if len(w.lines) == 0 {
		return 0
	}
	return w.lines[len(w.lines)-1].Seq + 1
}

// shrink drops the first lines of a window that is too large, some more of them than it
// has to: what stays is copied, so that the memory of the others goes. With the mutex.
func (w *logWindow) shrink(most int) {
	if w.size <= most {
		return
	}
	drop := 0
	for ; drop < len(w.lines) && w.size > most*3/4; drop++ {
		w.size -= cost(w.lines[drop], w.events[drop])
	}
	w.lines = append([]nimbus.Line(nil), w.lines[drop:]...)
	w.events = append([]event(nil), w.events[drop:]...)
}

func cost(l nimbus.Line, e event) int { return lineCost + len(l.Text) + len(e.frame) }

func encodeLines(attempt string, page []nimbus.Line) ([]event, error) {
	events := make([]event, len(page))
	for i, line := range page {
		var err error
		if events[i], err = lineEvent(attempt, line); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// lineEvent encodes a line: as the bytes of an event, in which its data are.
func lineEvent(attempt string, l nimbus.Line) (event, error) {
	data, err := json.Marshal(toJSON(l))
	if err != nil {
		return event{}, fmt.Errorf("encode a line: %w", err)
	}
	e := event{name: "line", id: attempt + ":" + strconv.FormatInt(l.Seq, 10)}
	var frame bytes.Buffer
	e.write(&frame, data)
	e.frame = bytes.Clone(frame.Bytes())
	end := len(e.frame) - len(eventEnd)
	e.data = json.RawMessage(e.frame[end-len(data) : end : end])
	return e, nil
}
