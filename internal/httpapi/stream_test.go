package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
)

// follow reads a job's stream until it ends or stop says so, and returns the
// ids of its lines and whether it was complete.
func (p *plane) follow(t *testing.T, path, lastID string, stop func(id string) bool) (ids []string, complete bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+p.admin)
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	got, err := http.DefaultClient.Do(r)
	must(t, err)
	defer got.Body.Close()
	id := ""
	for lines := bufio.NewScanner(got.Body); lines.Scan(); {
		text := lines.Text()
		switch {
		case strings.HasPrefix(text, "id: "):
			id = text[len("id: "):]
		case text == "event: complete":
			return ids, true
		case text == "event: line":
			ids = append(ids, id)
			if stop(id) {
				return ids, false
			}
		}
	}
	return ids, false
}

// TestResumeIsExact cuts a growing log's stream again and again; each line
// comes once, in order, and complete comes after the last.
func TestResumeIsExact(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h, j := p.join(t), p.submit(t)
	lease := h.accept(t)
	path := "/api/v1/jobs/" + j.ID + "/log/stream"
	var all []string
	last := ""
	h.write(t, lease, 1, 10)
	for round := int64(1); round <= 20; round++ {
		took := 0
		ids, complete := p.follow(t, path, last, func(string) bool { took++; return took == int(round%7)+1 })
		if complete {
			t.Fatal("complete before the job's end")
		}
		all, last = append(all, ids...), ids[len(ids)-1]
		h.write(t, lease, round*10+1, round*10+10)
	}
	h.finish(t, lease, 210)
	rest, complete := p.follow(t, path, last, func(string) bool { return false })
	all = append(all, rest...)
	if !complete || len(all) != 210 {
		t.Fatalf("%d lines, complete %v", len(all), complete)
	}
	for i, id := range all {
		if want := fmt.Sprintf("%s:%d", lease.GetAttemptId(), i+1); id != want {
			t.Fatalf("event %d is %s, want %s", i, id, want)
		}
	}
	tail, _ := p.follow(t, path+"?from=200", "", func(string) bool { return false })
	if len(tail) != 11 || !strings.HasSuffix(tail[0], ":200") {
		t.Errorf("from line 200: %v", tail)
	}
	for query, first := range map[string]string{"?tail=5": ":206", "?tail=1000": ":1", "?tail=50&from=200": ":200"} {
		if tail, complete := p.follow(t, path+query, "", func(string) bool { return false }); !complete || !strings.HasSuffix(tail[0], first) || !strings.HasSuffix(tail[len(tail)-1], ":210") {
			t.Errorf("%s: %v", query, tail)
		}
	}
	again, complete := p.follow(t, path, "nonsense", func(string) bool { return false })
	if len(again) != 210 || !complete {
		t.Errorf("an unknown event's id: %d lines", len(again))
	}
	if got := p.asAdmin(t, http.MethodGet, path+"?from=0", ""); got.status != http.StatusBadRequest {
		t.Errorf("from=0: %d", got.status)
	}
}

// TestStreamsEndWithTheirSession: who signs out reads no further.
func TestStreamsEndWithTheirSession(t *testing.T) {
	t.Parallel()
	p := startPlane(t, func(c *httpapi.Config) { c.Recheck = 10 * time.Millisecond })
	j := p.submit(t) // nobody runs it: its log says nothing
	for _, path := range []string{"/api/v1/jobs/stream", "/api/v1/jobs/" + j.ID + "/log/stream"} {
		code, err := p.identity.CreateLogin(t.Context(), identity.Root(), "")
		must(t, err)
		session, _, err := p.identity.RedeemLogin(t.Context(), code)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
		must(t, err)
		r.AddCookie(&http.Cookie{Name: "nimbus_session", Value: session})
		got, err := http.DefaultClient.Do(r)
		must(t, err)
		defer got.Body.Close()
		if _, err := got.Body.Read(make([]byte, 1)); err != nil || got.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, got.Status, err)
		}
		must(t, p.identity.EndSession(t.Context(), identity.Root(), session))
		if _, err := io.Copy(io.Discard, got.Body); err != nil {
			t.Errorf("%s goes on: %v", path, err)
		}
	}
}

// followMany reads a stream of many jobs until it ends or has given so many lines.
func (p *plane) followMany(t *testing.T, path, lastID string, most int) (lines []string, id string, ended bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+p.admin)
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	got, err := http.DefaultClient.Do(r)
	must(t, err)
	defer got.Body.Close()
	id = lastID
	name := ""
	for in := bufio.NewScanner(got.Body); in.Scan(); {
		field, value, _ := strings.Cut(in.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			var data struct {
				JobID string `json:"job_id"`
				Event struct {
					Seq int `json:"seq"`
				} `json:"event"`
			}
			must(t, json.Unmarshal([]byte(value), &data))
			switch name {
			case "line":
				lines = append(lines, fmt.Sprintf("%s %d", data.JobID, data.Event.Seq))
			case "end":
				return lines, id, true
			}
		}
		if len(lines) >= most && in.Text() == "" && field == "" && id != lastID {
			return lines, id, false
		}
	}
	return lines, id, false
}
