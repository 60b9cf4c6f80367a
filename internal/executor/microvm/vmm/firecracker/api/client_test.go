package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve is a client of a handler.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c := New(func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "tcp", s.Listener.Addr().String())
	})
	t.Cleanup(c.Close)
	return c
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"fault_message":"no such thing"}`: "no such thing",
		`<html>`:                            "Bad Request",
		``:                                  "Bad Request",
		`{"fault_message":"` + strings.Repeat("x", 1<<20) + `"}`: "Bad Request", // too long to be read
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, body)
		})
		err := c.Start(t.Context())
		refused, ok := errors.AsType[*Error](err)
		if !ok || refused.Fault != want || Fault(err) != want || refused.Status != 400 || refused.Path != "/actions" || refused.Method != http.MethodPut {
			t.Errorf("%.40s: got %.200v", body, err)
		}
	}
	if Fault(io.EOF) != "" {
		t.Error("an error that is no refusal has a fault")
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `"`+strings.Repeat("x", 2<<20)+`"`)
	})
	if _, err := c.MMDS(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %.200v", err)
	}
	c = serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	if err := c.Start(t.Context()); err == nil {
		t.Error("followed a redirect")
	}
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{") })
	if _, err := c.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "decode answer") {
		t.Errorf("got %v", err)
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // or the server would not see the client go
		close(arrived)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Pause(ctx) }()
	<-arrived
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the call goes on")
	}
}

func TestPerSecond(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]*RateLimiter{
		`null`: PerSecond(0, 0),
		`{"bandwidth":{"size":5,"refill_time":1000}}`:                                     PerSecond(5, 0),
		`{"ops":{"size":7,"refill_time":1000}}`:                                           PerSecond(-1, 7),
		`{"bandwidth":{"size":5,"refill_time":1000},"ops":{"size":7,"refill_time":1000}}`: PerSecond(5, 7),
	} {
		raw, err := json.Marshal(got)
		if diff := cmp.Diff(want, string(raw)); err != nil || diff != "" {
			t.Error(err, diff)
		}
	}
}
