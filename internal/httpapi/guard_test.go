package httpapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// clockedWriter remembers the read deadline that was set last.
type clockedWriter struct {
	http.ResponseWriter
	deadline time.Time
}

func (w *clockedWriter) SetReadDeadline(t time.Time) error {
	w.deadline = t
	return nil
}

// TestBodiesMustKeepComing: what came buys time, and the deadline goes with the
// body's end, or it would cut off what waits long for its answer.
func TestBodiesMustKeepComing(t *testing.T) {
	t.Parallel()
	started := time.Now()
	w := &clockedWriter{ResponseWriter: httptest.NewRecorder()}
	b := &steadyBody{
		ReadCloser: io.NopCloser(iotest.DataErrReader(strings.NewReader(strings.Repeat("x", 3*slowBody)))),
		rc:         http.NewResponseController(&answerWriter{ResponseWriter: w}), started: started,
	}
	for i := range 3 {
		if _, err := io.ReadFull(b, make([]byte, slowBody-1)); err != nil {
			t.Fatal(err)
		}
		if got, want := w.deadline.Sub(started), bodyGrace+time.Duration(i)*time.Second; got > want || got < want-time.Second {
			t.Errorf("read %d is due after %s, want %s", i, got, want)
		}
	}
	if _, err := io.ReadAll(b); err != nil || !w.deadline.IsZero() {
		t.Errorf("after the end: %v, %v", w.deadline, err)
	}
}
