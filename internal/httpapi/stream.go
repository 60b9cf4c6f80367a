package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// keepAlive is how often a quiet stream says that it is there: proxies and
	// clients take silence for a broken connection.
	keepAlive = 15 * time.Second
	// slowReader is how long a reader may not take what it is sent. Then its
	// stream ends; it comes back and goes on where it was.
	slowReader = 20 * time.Second
)

// eventStream writes server-sent events:
// https://html.spec.whatwg.org/multipage/server-sent-events.html
type eventStream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func newEventStream(w http.ResponseWriter) (*eventStream, error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	s := &eventStream{w: w, rc: http.NewResponseController(w)}
	w.WriteHeader(http.StatusOK)
	return s, s.comment()
}

// whileAllowed ends a stream when its caller would be refused by now.
func (a *api) whileAllowed(stream func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		ctx, cancel := context.WithCancel(r.Context())
		var watch sync.WaitGroup
		defer watch.Wait()
		defer cancel()
		r = r.WithContext(ctx)
		watch.Go(func() {
			defer cancel()
			a.awaitRefusal(r)
		})
		return stream(w, r)
	}
}

// awaitRefusal returns when a request would be refused now, or is over. A store
// that does not answer refuses nobody: it has nothing to tell either.
func (a *api) awaitRefusal(r *http.Request) {
	ticker := time.NewTicker(a.Recheck)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
		c, err := a.allow(r, routes[r.Pattern])
		switch nimbus.ErrorCode(err) {
		case nimbus.CodeUnauthenticated, nimbus.CodeForbidden, nimbus.CodeNotFound:
			a.refused(r, c, r.Pattern, routes[r.Pattern], err, false)
			return
		}
	}
}

// errReaderGone is what a stream ends with whose reader takes nothing any more.
var errReaderGone = errors.New("the reader is gone")

// event is one event; id is "" for none.
type event struct {
	name, id string
	data     any
	frame    []byte // as it is sent, of one that was encoded for many; nil for others
}

// write writes an event with its data.
func (e event) write(buf *bytes.Buffer, data []byte) {
	if e.id != "" {
		buf.WriteString("id: ")
		buf.WriteString(e.id)
		buf.WriteByte('\n')
	}
	buf.WriteString("event: ")
	buf.WriteString(e.name)
	buf.WriteString("\ndata: ")
	buf.Write(data)
	buf.WriteString(eventEnd)
}

// eventEnd ends an event.
const eventEnd = "\n\n"

// sendPiece is how much is written at a time: as long as a reader takes none of it, so
// much is kept for that reader alone.
const sendPiece = 32 << 10

// sendBuffers are used again and again. One that grew is let go.
var sendBuffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, sendPiece)) }}

// send writes events at once.
func (s *eventStream) send(events ...event) error {
	buf, _ := sendBuffers.Get().(*bytes.Buffer)
	buf.Reset()
	defer func() {
		if buf.Cap() <= sendPiece {
			sendBuffers.Put(buf)
		}
	}()
	for _, e := range events {
		if buf.Len()+len(e.frame) > sendPiece {
			if err := s.write(buf.Bytes()); err != nil {
				return err
			}
			buf.Reset()
		}
		if err := s.put(buf, e); err != nil {
			return err
		}
	}
	if err := s.write(buf.Bytes()); err != nil {
		return err
	}
	return s.flush()
}

// put adds an event to what is to be written.
func (s *eventStream) put(buf *bytes.Buffer, e event) error {
	if len(e.frame) > sendPiece { // it is there already, for all who get it
		return s.write(e.frame)
	}
	if e.frame != nil {
		buf.Write(e.frame)
		return nil
	}
	data, ok := e.data.(json.RawMessage)
	if !ok {
		var err error
		if data, err = json.Marshal(e.data); err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
	}
	e.write(buf, data)
	return nil
}

// comment tells the other side that the stream is alive.
func (s *eventStream) comment() error {
	if err := s.write([]byte(":\n\n")); err != nil {
		return err
	}
	return s.flush()
}

// write gives the reader some time to take what there is so far.
func (s *eventStream) write(p []byte) error {
	if err := s.rc.SetWriteDeadline(time.Now().Add(slowReader)); err != nil {
		return errors.Join(errReaderGone, fmt.Errorf("bound the reader's time: %w", err))
	}
	if _, err := s.w.Write(p); err != nil {
		return errors.Join(errReaderGone, fmt.Errorf("write event: %w", err))
	}
	return nil
}

// flush follows a write, and sends what of it is not on its way.
func (s *eventStream) flush() error {
	if err := s.rc.Flush(); err != nil {
		return errors.Join(errReaderGone, fmt.Errorf("flush event: %w", err))
	}
	// On HTTP/2 it would end a stream that has nothing to say.
	if err := s.rc.SetWriteDeadline(time.Time{}); err != nil {
		return fmt.Errorf("bound the reader's time: %w", err)
	}
	return nil
}
