package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

func TestPlainHTTPStaysOnThisMachine(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]nimbus.Code{
		"http://127.0.0.1:8080": "", "http://localhost:1": "", "http://[::1]:8080": "", "https://nimbus.example.com": "",
		"http://nimbus.example.com": nimbus.CodeInvalid, "http://10.0.0.1": nimbus.CodeInvalid, "nimbus": nimbus.CodeInvalid, "": nimbus.CodeInvalid,
	} {
		if _, err := New(Config{Server: address}); nimbus.ErrorCode(err) != want {
			t.Errorf("%q: got %v, want code %q", address, err, want)
		}
	}
}

// serve starts a server and a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(Config{Server: s.URL, Token: "nbs_admin_x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestErrorsComeBackWhole(t *testing.T) {
	t.Parallel()
	meant := nimbus.Errorf(nimbus.CodeTooLarge, "256 MiB is the most").WithHint("leave “node_modules” out")
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer nbs_admin_x" {
			t.Errorf("Authorization: %q", got)
		}
		wire.WriteHTTPError(w, fmt.Errorf("put: %w", meant))
	})
	_, err := c.UploadWorkspace(t.Context(), strings.NewReader("x"))
	if nimbus.ErrorCode(err) != meant.Code || err.Error() != meant.Message || nimbus.ErrorHint(err) != meant.Hint {
		t.Errorf("got %q %v, hint %q", nimbus.ErrorCode(err), err, nimbus.ErrorHint(err))
	}
}

func TestUnreachableIsUnavailable(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	c, err := New(Config{Server: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, uploadErr := c.UploadWorkspace(t.Context(), strings.NewReader("x"))
	_, callErr := c.Job(t.Context(), "job_1")
	for _, err := range []error{uploadErr, callErr} {
		if nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
			t.Errorf("got %v", err)
		}
	}
}

// TestFollowLogOverBrokenConnections: lines come once and in order, whatever
// the server repeats; a new attempt begins at its first line.
func TestFollowLogOverBrokenConnections(t *testing.T) {
	t.Parallel()
	connection, lastIDs := 0, []string{}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		lastIDs = append(lastIDs, r.Header.Get("Last-Event-ID"))
		connection++
		line := func(attempt string, seq int) {
			fmt.Fprintf(w, "id: %s:%d\nevent: line\ndata: {\"seq\":%d,\"stream\":\"stdout\",\"text\":\"%s %d\"}\n\n", attempt, seq, seq, attempt, seq)
		}
		switch connection {
		case 1:
			fmt.Fprint(w, ": hello\n\nevent: attempt\ndata: {\"attempt_id\":\"a\"}\n\n")
			line("a", 1)
			line("a", 2)
			fmt.Fprint(w, "id: a:3\nevent: line\ndata: {\"seq\":3") // cut off
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		case 3:
			fmt.Fprint(w, "event: attempt\ndata: {\"attempt_id\":\"a\"}\n\n")
			line("a", 2)
			line("a", 3)
			fmt.Fprint(w, "event: attempt\ndata: {\"attempt_id\":\"b\"}\n\n")
			line("b", 1)
			fmt.Fprint(w, "event: news\ndata: {}\n\nevent: complete\ndata: {\"complete\":true}\n\n")
		}
	})
	var got []string
	for e, err := range c.FollowLog(t.Context(), "job_1") {
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case LogAttempt:
			got = append(got, "attempt "+e.AttemptID)
		case LogLine:
			got = append(got, e.Line.Text)
		default:
			got = append(got, string(e.Kind))
		}
	}
	want := []string{"attempt a", "a 1", "a 2", "interrupted", "interrupted", "a 3", "attempt b", "b 1", "complete"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"", "a:2", "a:2"}, lastIDs); diff != "" {
		t.Error(diff)
	}
}

// TestFollowLogOverDamage: lines that can't be read are told, each once, and those behind
// them are had; lines that are no longer kept are counted.
func TestFollowLogOverDamage(t *testing.T) {
	t.Parallel()
	connection := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if tail := r.URL.Query().Get("tail"); tail != "7" {
			t.Errorf("the stream is asked for the last %q lines", tail)
		}
		if connection++; connection == 1 {
			fmt.Fprint(w, "event: attempt\ndata: {\"attempt_id\":\"a\"}\n\nid: a:1\nevent: line\ndata: {\"seq\":1,\"text\":\"first\"}\n\n")
			fmt.Fprint(w, "id: a:3\nevent: damaged\ndata: {\"first\":2,\"last\":3}\n\n")
			return
		}
		fmt.Fprint(w, "event: attempt\ndata: {\"attempt_id\":\"a\"}\n\nid: a:5\nevent: damaged\ndata: {\"first\":2,\"last\":5}\n\n")
		fmt.Fprint(w, "id: a:6\nevent: line\ndata: {\"seq\":6,\"text\":\"behind\"}\n\nevent: complete\ndata: {\"complete\":false,\"lines\":6,\"stored\":9}\n\n")
	})
	var got []string
	for e, err := range c.FollowLogTail(t.Context(), "job_1", 7) {
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case LogLine:
			got = append(got, e.Line.Text)
		case LogDamaged:
			got = append(got, e.Err.Error())
		case LogComplete:
			got = append(got, fmt.Sprintf("whole: %t, %d gone", e.Whole, e.Gone))
		case LogAttempt, LogInterrupted:
		}
	}
	want := []string{"first", "lines 2 to 3 are damaged on the server and can't be read", "lines 4 to 5 are damaged on the server and can't be read", "behind", "whole: false, 3 gone"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestFollowLogEnds: at a fault at once, and where connections end time and again before
// they bring anything new.
func TestFollowLogEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		says string
		want nimbus.Code
	}{
		"fault":       {"event: fault\ndata: {\"code\":\"internal\",\"message\":\"the disk is on fire\"}\n\n", nimbus.CodeInternal},
		"nothing new": {"", nimbus.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, "event: attempt\ndata: {\"attempt_id\":\"a\"}\n\n"+c.says)
			})
			cl.patience = time.Second
			var last error
			for _, err := range cl.FollowLog(t.Context(), "job_1") {
				last = err
			}
			if nimbus.ErrorCode(last) != c.want {
				t.Errorf("it ends with %v", last)
			}
		})
	}
}

func TestFollowLogGivesUpWhereTryingAgainIsNoUse(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		wire.WriteHTTPError(w, nimbus.Errorf(nimbus.CodeNotFound, "no such job"))
	})
	var last error
	for e, err := range c.FollowLog(t.Context(), "job_1") {
		if err == nil {
			t.Errorf("got %+v", e)
		}
		last = err
	}
	if nimbus.ErrorCode(last) != nimbus.CodeNotFound {
		t.Errorf("got %v", last)
	}
}

func TestFollowLogEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "event: attempt\ndata: {\"attempt_id\":\"a\"}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	var last error
	for _, err := range c.FollowLog(ctx, "job_1") {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("got %v", last)
	}
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	for name, stream := range map[string]io.Reader{
		"one line":   strings.NewReader("data: " + strings.Repeat("x", maxEventBytes) + "\n\n"),
		"many lines": strings.NewReader(strings.Repeat("data: "+strings.Repeat("x", 1<<10)+"\n", 1000) + "\n"),
	} {
		if _, err := newEventReader(stream, func() {}).next(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
