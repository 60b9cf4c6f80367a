package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of what is kept encoded of a log that many follow.
const (
	frameLines = 1000 // two pages: who is further behind encodes for itself
	frameBytes = 512 << 10
)

// lineFrames has those who follow the same log share what they send: a line is encoded
// once. It keeps nothing of a log that has one reader, or none.
type lineFrames struct {
	mu   sync.Mutex
	logs map[nimbus.LogKey]*frameWindow
}

func newLineFrames() *lineFrames { return &lineFrames{logs: map[nimbus.LogKey]*frameWindow{}} }

// frameWindow are the last lines of one log that somebody sent.
type frameWindow struct {
	readers int // of those who follow; with the mutex of lineFrames

	mu     sync.RWMutex
	first  int64 // line of frames[0]
	size   int
	frames []event
}

// follow is for a reader that begins; it leaves in the end.
func (l *lineFrames) follow(key nimbus.LogKey) (w *frameWindow, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w = l.logs[key]
	if w == nil {
		w = &frameWindow{}
		l.logs[key] = w
	}
	w.readers++
	return w, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if w.readers--; w.readers == 0 {
			delete(l.logs, key)
		}
	}
}

// shared tells whether others follow the same log.
func (l *lineFrames) shared(w *frameWindow) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.readers > 1
}

// events are lines as they are sent, those of a page of the attempt.
func (l *lineFrames) events(w *frameWindow, attempt string, page []nimbus.Line) ([]event, error) {
	events := w.known(page)
	if len(events) == len(page) {
		return events, nil
	}
	for _, line := range page[len(events):] {
		e, err := lineEvent(attempt, line)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	if l.shared(w) {
		w.keep(page[0].Seq, events)
	}
	return events, nil
}

// known are the events of the first lines of a page, those that are kept.
func (w *frameWindow) known(page []nimbus.Line) []event {
	out := make([]event, 0, len(page))
	w.mu.RLock()
	defer w.mu.RUnlock()
	from := page[0].Seq - w.first
	if from < 0 || from >= int64(len(w.frames)) {
		return out
	}
	return append(out, w.frames[from:min(from+int64(len(page)), int64(len(w.frames)))]...)
}

// keep keeps events from line first on, as far as they follow what is kept. Those from
// further back are left to who wants them.
func (w *frameWindow) keep(first int64, events []event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.first + int64(len(w.frames))
	switch {
	case first > next || len(w.frames) == 0: // there is a gap: what is new is wanted more
		w.first, w.size, w.frames = first, 0, nil
	case first < w.first || first+int64(len(events)) <= next:
		return
	default:
		events = events[next-first:]
	}
	for _, e := range events {
		w.size += len(e.frame)
	}
	w.frames = append(w.frames, events...)
	drop := 0
	for drop < len(w.frames) && (len(w.frames)-drop > frameLines || w.size > frameBytes) {
		w.size -= len(w.frames[drop].frame)
		drop++
	}
	if w.first += int64(drop); drop > 0 { // into new memory: what is dropped goes
		w.frames = append(make([]event, 0, len(w.frames)-drop), w.frames[drop:]...)
	}
}

// lineEvent encodes a line: as an event, and as the bytes of it.
func lineEvent(attempt string, l nimbus.Line) (event, error) {
	data, err := json.Marshal(toJSON(l))
	if err != nil {
		return event{}, fmt.Errorf("encode a line: %w", err)
	}
	e := event{name: "line", id: attempt + ":" + strconv.FormatInt(l.Seq, 10), data: json.RawMessage(data)}
	var frame bytes.Buffer
	e.write(&frame, data)
	e.frame = frame.Bytes()
	return e, nil
}
