package httpapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// holed is a store of which lines first to last are damaged, or nothing can be read.
type holed struct {
	logs.Store
	first, last int64
	dead        atomic.Bool
}

func (s *holed) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	switch {
	case s.dead.Load():
		return nil, errors.New("the disk is on fire")
	case from >= s.first && from <= s.last:
		return nil, fmt.Errorf("read a log: %w", &logs.DamagedError{First: from, Last: s.last, Err: errors.New("a flipped bit")})
	case from < s.first:
		limit = min(limit, int(s.first-from))
	}
	return s.Store.Read(ctx, key, from, limit)
}

// serverLog is a log of the server, which is read while it writes.
type serverLog struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *serverLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(b)
}

func (l *serverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// TestDamagedLinesAreTold: whoever reads a log, and however, learns which lines can't be
// read, and has those behind them; a stream ends all the same.
func TestDamagedLinesAreTold(t *testing.T) {
	t.Parallel()
	store, log := &holed{first: 4, last: 6}, &serverLog{}
	p := startPlane(t, func(c *httpapi.Config) {
		store.Store, c.Logs = c.Logs, store
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	h, j := p.join(t), p.submit(t)
	lease := h.accept(t)
	h.write(t, lease, 1, 9)
	h.finish(t, lease, 9)
	path := "/api/v1/jobs/" + j.ID + "/log"
	body := func(query string) (string, http.Header) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path+query, nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer "+p.admin)
		got, err := http.DefaultClient.Do(r)
		must(t, err)
		defer got.Body.Close()
		text, err := io.ReadAll(got.Body)
		must(t, err)
		return string(text), got.Trailer
	}
	lines, _ := body("")
	rows := strings.Split(strings.TrimSpace(lines), "\n")
	if len(rows) != 7 || !strings.Contains(rows[3], `"seq":6,"damaged_from":4`) || !strings.Contains(rows[4], `"seq":7`) {
		t.Errorf("as JSON: %s", lines)
	}
	text, trailer := body("?format=text")
	if n := strings.Count(text, "\n"); n != 7 || !strings.Contains(text, "== lines 4 to 6 are damaged") || trailer.Get("Nimbus-Damaged-Lines") != "3" {
		t.Errorf("as text: %s %v", text, trailer)
	}
	if tail, _ := body("?tail=5"); !strings.Contains(tail, `"seq":6,"damaged_from":5`) || !strings.Contains(tail, `"seq":9`) {
		t.Errorf("its end: %s", tail)
	}
	stream, _ := body("/stream")
	for _, want := range []string{"event: line\ndata: {\"seq\":3", lease.GetAttemptId() + ":6\nevent: damaged\ndata: {\"first\":4,\"last\":6}", "event: line\ndata: {\"seq\":7", `event: complete`, `"lines":9`} {
		before, after, ok := strings.Cut(stream, want)
		if !ok {
			t.Fatalf("no %q in %s", want, before)
		}
		stream = after
	}
	if outline, _ := body("/outline"); !strings.Contains(outline, `"lines":9`) {
		t.Errorf("its outline: %s", outline)
	}
	if !strings.Contains(log.String(), "lines of a log can't be read") || !strings.Contains(log.String(), "a flipped bit") {
		t.Errorf("the server's log: %s", log)
	}
	if beyond, _ := body("/stream?from=100000"); !strings.Contains(beyond, `"lines":9,`) {
		t.Errorf("from a line that there is not: %s", beyond)
	}
	if xml, _ := body("?format=xml"); !strings.Contains(xml, `"invalid"`) {
		t.Errorf("as XML: %s", xml)
	}
	store.dead.Store(true)
	if stream, _ := body("/stream"); !strings.Contains(stream, "event: fault\ndata: {\"code\":\"internal\"") {
		t.Errorf("of a log that can't be read: %s", stream)
	}
	if many, _ := (func() (string, http.Header) { path = "/api/v1/logs/stream"; return body("?jobs=" + j.ID) })(); !strings.Contains(many, "event: fault\n") {
		t.Errorf("among many: %s", many)
	}
	if !strings.Contains(log.String(), "on fire") {
		t.Errorf("the server's log: %s", log)
	}
}

// TestALogThatIsGone: a log that is no longer kept is none that was empty, and a job that
// never ran has all of its.
func TestALogThatIsGone(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h, j := p.join(t), p.submit(t)
	lease := h.accept(t)
	h.write(t, lease, 1, 9)
	h.finish(t, lease, 9)
	path := "/api/v1/jobs/" + j.ID + "/log/stream"
	if got := p.asAdmin(t, http.MethodGet, path, "").body; !strings.Contains(got, `{"complete":true,"lines":9,`) || !strings.Contains(got, `"stored":9}`) {
		t.Errorf("while it is there: %s", got)
	}
	must(t, p.logs.Delete(t.Context(), nimbus.LogKey{OrgID: nimbus.DefaultOrgID, AttemptID: lease.GetAttemptId()}))
	if got := p.asAdmin(t, http.MethodGet, path, "").body; !strings.Contains(got, `{"complete":false,"lines":0,`) || !strings.Contains(got, `"stored":9}`) {
		t.Errorf("once it is gone: %s", got)
	}
}
