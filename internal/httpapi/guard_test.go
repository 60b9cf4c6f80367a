package httpapi

import (
	"io"
	"log/slog"
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

// TestTheCacheKeepsTime: its transfers are as slow as it lets them be, everybody
// else's as the door does.
func TestTheCacheKeepsTime(t *testing.T) {
	t.Parallel()
	a := &api{Config: Config{Cache: struct{ Cache }{}, Observer: nobody{}, Log: slog.New(slog.DiscardHandler)}}
	for path, steady := range map[string]bool{
		cacheBlobs + "u/1": false, keyedPath + "o/k": false, cacheV1 + "caches/1": false, cacheTwirp + "CreateCacheEntry": false,
		"/_cachette": true, "/v2/acme/app/blobs/uploads/": true, "/api/v1/workspaces": true,
	} {
		asked := false
		h := a.guard(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, got := r.Body.(*steadyBody)
			if asked = true; got != steady {
				t.Errorf("%s: held to the door's time: %v, want %v", path, got, steady)
			}
		}))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPut, path, strings.NewReader("x")))
		if !asked {
			t.Errorf("%s: nobody was asked", path)
		}
	}
}
