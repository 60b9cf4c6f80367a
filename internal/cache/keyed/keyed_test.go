package keyed_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/keyed"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// shelf is a cache that keeps contents in memory, and notes what it is asked. It
// serves one request at a time.
type shelf struct {
	entries map[[2]string]kept // by version and key
	saving  cache.Saving       // what was saved last
	next    int64
	fails   error  // what every call is answered with
	away    error  // what contents are
	ended   bool   // nobody may go on
	came    func() // is called as a content comes
}

type kept struct {
	entry   cache.Entry
	content string
}

func (s *shelf) Get(_ context.Context, _ cache.Caller, key, version string) (cache.Entry, bool, error) {
	k, ok := s.entries[[2]string{version, key}]
	return k.entry, ok, s.fails
}

// content is a part of one.
type content struct{ *strings.Reader }

func (content) Close() error { return nil }

func (s *shelf) Open(_ context.Context, e cache.Entry, offset, n int64) (cache.Content, error) {
	for _, k := range s.entries {
		if k.entry.ID == e.ID {
			return content{strings.NewReader(k.content[offset : offset+n])}, cmp.Or(s.away, s.fails)
		}
	}
	return nil, nimbus.Errorf(nimbus.CodeNotFound, "it is gone")
}

func (s *shelf) Save(_ context.Context, _ cache.Caller, what cache.Saving, r io.Reader) (cache.Entry, bool, error) {
	s.saving = what
	s.saving.Still = nil // which can't be compared
	if s.fails != nil {
		return cache.Entry{}, false, s.fails
	}
	at := [2]string{what.Version, what.Key}
	if what.Match != nil && !what.Match(s.entries[at].entry.ID) {
		return cache.Entry{}, false, cache.NotTheOne()
	}
	switch before, there := s.entries[at]; {
	case there && what.Again == cache.AgainRefused:
		return cache.Entry{}, false, nimbus.Errorf(nimbus.CodeConflict, "the key already exists in the cache")
	case there && what.Again == cache.AgainKeeps:
		_, err := io.Copy(io.Discard, r)
		return before.entry, true, err
	}
	text, err := io.ReadAll(r)
	if s.came != nil {
		s.came()
	}
	if err == nil {
		err = what.Still(context.Background())
	}
	if err != nil {
		return cache.Entry{}, false, err
	}
	s.next++
	e := cache.Entry{ID: s.next, Size: int64(len(text)), CreatedAt: time.Unix(1e9, 0), Meta: what.Meta, Digest: "digest"}
	e.OrgID = nimbus.DefaultOrgID
	s.entries[at] = kept{e, string(text)}
	return e, false, nil
}

func (s *shelf) Delete(_ context.Context, _ cache.Caller, key, version string, match func(int64) bool) error {
	at := [2]string{version, key}
	if match != nil && !match(s.entries[at].entry.ID) {
		return cache.NotTheOne()
	}
	if _, ok := s.entries[at]; !ok {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such entry in the cache")
	}
	delete(s.entries, at)
	return s.fails
}

// desk is a handler over it, for a token that reads and writes.
type desk struct {
	t *testing.T
	*shelf
	url string
}

const token = "good"

func open(t *testing.T) desk {
	t.Helper()
	s := &shelf{entries: map[[2]string]kept{}}
	caller := cache.Caller{OrgID: nimbus.DefaultOrgID, Write: "main", Read: []string{"main"}}
	h := keyed.New(keyed.Config{Cache: s, Log: slog.New(slog.DiscardHandler), Caller: func(_ context.Context, shown string) (cache.Caller, error) {
		switch shown {
		case token:
			if s.ended {
				return cache.Caller{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the job has ended")
			}
			return caller, nil
		case "blind":
			return cache.Caller{OrgID: nimbus.DefaultOrgID, Write: "main"}, nil
		}
		return cache.Caller{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "the token is not known")
	}})
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return desk{t, s, server.URL + keyed.Prefix + nimbus.DefaultOrgID + "/"}
}

type answer struct {
	*http.Response

	body string
}

// ask sends a request to a path below the org.
func (d desk) ask(method, path, body string, headers ...string) answer {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer{a, string(text)}
}

// TestProtocolsAreApart: what each path means, and what its protocol expects of a
// content that is put again.
func TestProtocolsAreApart(t *testing.T) {
	t.Parallel()
	d := open(t)
	hash := hex.EncodeToString(bytes.Repeat([]byte{0xab}, sha256.Size))
	for path, want := range map[string]cache.Saving{
		"any/key":                         {Version: cache.Own + "http", Key: "any/key"},
		"ac/" + hash:                      {Version: cache.Own + "bazel-ac", Key: hash},
		"cas/" + hash:                     {Version: cache.Own + "bazel-cas", Key: hash, Again: cache.AgainKeeps, SHA256: hash},
		"cas/" + strings.ToUpper(hash):    {Version: cache.Own + "http", Key: "cas/" + strings.ToUpper(hash)}, // which no client of Bazel's sends
		"cas/" + hash[1:]:                 {Version: cache.Own + "http", Key: "cas/" + hash[1:]},
		"v8/artifacts/" + hash[:16]:       {Version: cache.Own + "turborepo", Key: hash[:16]},
		"v1/cache/" + hash[:20]:           {Version: cache.Own + "nx", Key: hash[:20], Again: cache.AgainRefused},
		"v1/cache/" + hash[:20] + "/more": {Version: cache.Own + "http", Key: "v1/cache/" + hash[:20] + "/more"},
	} {
		d.ask(http.MethodPut, path, "content")
		want.Size = int64(len("content"))
		if !reflect.DeepEqual(d.saving, want) {
			t.Errorf("%s is saved as %+v, want %+v", path, d.saving, want)
		}
	}
	d.ask(http.MethodPut, "any/key", "x", "If-None-Match", "*")
	if d.saving.Again != cache.AgainRefused {
		t.Errorf("only where there is none: %+v", d.saving)
	}
	if a := d.ask(http.MethodPut, "v8/team/settings", "x"); a.StatusCode != http.StatusNotFound {
		t.Errorf("nothing of Turborepo's: %s", a.Status)
	}
}

// TestOddKeys are refused before anything is looked for, and name no other key.
func TestOddKeys(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, path := range []string{"a//b", "a/./b", "a/%2e%2e/b", "../x", "a/..", "a%20b", "a%00", "a%5cb", "%C3%A4", "a;b", "a%25b"} {
		d.saving = cache.Saving{}
		a := d.ask(http.MethodPut, path, "x")
		if d.saving.Key != "" || a.StatusCode == http.StatusCreated {
			t.Errorf("%s is saved as %q: %s", path, d.saving.Key, a.Status)
		}
	}
	if d.ask(http.MethodPut, "a?b=c", "x"); d.saving.Key != "a" {
		t.Errorf("a query is part of %q", d.saving.Key)
	}
	if a := d.ask(http.MethodPut, strings.Repeat("k", cache.MaxKey), "x"); a.StatusCode != http.StatusCreated {
		t.Errorf("the longest key: %s", a.Status)
	}
	if a := d.ask(http.MethodPut, strings.Repeat("k", cache.MaxKey+1), "x"); a.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("one that is longer: %s", a.Status)
	}
}

// TestTokensOfKeys: the ways in which one may be shown, and who may not.
func TestTokensOfKeys(t *testing.T) {
	t.Parallel()
	for authorization, want := range map[string]string{
		"Bearer abc": "abc", "bearer abc": "abc", "BEARER  abc": "abc", "Bearer ": "", "abc": "", "": "",
		"Basic " + base64.StdEncoding.EncodeToString([]byte("job:abc")): "abc", "Basic " + base64.StdEncoding.EncodeToString([]byte("abc:")): "",
		"Basic !": "", "Digest abc": "",
	} {
		if got, _ := keyed.Token(http.Header{"Authorization": {authorization}}); got != want {
			t.Errorf("%q shows %q, want %q", authorization, got, want)
		}
	}
	d := open(t)
	if a := d.ask(http.MethodGet, "k", "", "Authorization", ""); a.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Basic ") || !strings.Contains(a.body, "NIMBUS_CACHE_TOKEN") {
		t.Errorf("without: %s %v %s", a.Status, a.Header, a.body)
	}
	d.ask(http.MethodPut, "k", "x")
	if a := d.ask(http.MethodGet, "k", "", "Authorization", "Bearer blind"); a.StatusCode != http.StatusForbidden {
		t.Errorf("one that reads nothing: %s", a.Status)
	}
	// Nx is told why by this type alone.
	if a := d.ask(http.MethodGet, "v1/cache/abc", "", "Authorization", ""); a.StatusCode != http.StatusUnauthorized || a.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("Nx without: %s %v", a.Status, a.Header)
	}
	d.url = strings.Replace(d.url, nimbus.DefaultOrgID, "org_0000000000000000000000000b", 1)
	if a := d.ask(http.MethodGet, "k", ""); a.StatusCode != http.StatusForbidden || strings.Contains(a.body, "org_0000000000000000000000000b") {
		t.Errorf("another org's path: %s %s", a.Status, a.body)
	}
}

// TestAnswersWithContents: what is said of them, parts, and conditions.
func TestAnswersWithContents(t *testing.T) {
	t.Parallel()
	d := open(t)
	put := d.ask(http.MethodPut, "k", "0123456789")
	if put.StatusCode != http.StatusCreated || put.Header.Get("ETag") != `"1"` {
		t.Errorf("PUT: %s %v", put.Status, put.Header)
	}
	if e, ok := transfer.TakeEntry(put.Header); !ok || e.ID != 1 || e.Digest != "digest" {
		t.Errorf("a host is told %+v", e)
	}
	blob := "cas/" + strings.Repeat("ab", sha256.Size)
	d.ask(http.MethodPut, blob, "one")
	if _, told := transfer.TakeEntry(d.ask(http.MethodPut, blob, "two").Header); told {
		t.Error("a host is told that other bytes are those of the entry that stays")
	}
	for _, c := range []struct {
		method  string
		headers []string
		status  int
		body    string
	}{
		{http.MethodGet, nil, 200, "0123456789"},
		{http.MethodHead, nil, 200, ""},
		{http.MethodGet, []string{"Range", "bytes=2-4"}, 206, "234"},
		{http.MethodGet, []string{"x-ms-range", "bytes=7-"}, 206, "789"},
		{http.MethodGet, []string{"Range", "bytes=10-"}, 416, ""},
		{http.MethodGet, []string{"If-None-Match", `W/"1"`}, 304, ""},
		{http.MethodGet, []string{"If-None-Match", `"7", "1"`}, 304, ""},
		{http.MethodGet, []string{"If-None-Match", `"2"`}, 200, "0123456789"},
		{http.MethodGet, []string{"If-Match", `"2"`}, 412, ""},
		{http.MethodGet, []string{"If-Match", "*"}, 200, "0123456789"},
	} {
		a := d.ask(c.method, "k", "", c.headers...)
		if a.StatusCode != c.status || c.status < 300 && a.body != c.body {
			t.Errorf("%s %v: %s %q", c.method, c.headers, a.Status, a.body)
		}
		if c.status < 300 && (a.Header.Get("Content-Security-Policy") == "" || a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("Content-Disposition") != "attachment") {
			t.Errorf("a browser may show it: %v", a.Header)
		}
		if c.status == 416 && a.Header.Get("Content-Range") != "bytes */10" {
			t.Errorf("behind the end: %v", a.Header)
		}
	}
	if a := d.ask(http.MethodPut, "k", "x", "Content-Range", "bytes 0-0/1"); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a part is put: %s", a.Status)
	}
	if a := d.ask(http.MethodPost, "k", "x"); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") == "" {
		t.Errorf("POST: %s", a.Status)
	}
	for _, tags := range []string{`"2"`, `"11", W/"2"`} {
		if a := d.ask(http.MethodDelete, "k", "", "If-Match", tags); a.StatusCode != http.StatusPreconditionFailed {
			t.Errorf("DELETE of another: %s", a.Status)
		}
	}
	if a := d.ask(http.MethodDelete, "k", "", "If-Match", `"2", "1"`); a.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: %s", a.Status)
	}
	if a := d.ask(http.MethodDelete, "k", ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("DELETE again: %s", a.Status)
	}
}

// TestRefusals are told in one line, by a status that clients know; what is the
// server's own fault is told nobody but its log.
func TestRefusals(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, c := range []struct {
		err     error
		status  int
		says    string
		headers []string
	}{
		{nimbus.Errorf(nimbus.CodeTooLarge, "an entry has 10 GiB at most"), 413, "an entry has", nil},
		{nimbus.Errorf(nimbus.CodeTooLarge, "insufficient usage: the quota is full").WithHint("ask"), 507, "full (ask)", nil},
		{&nimbus.Error{Code: nimbus.CodeUnavailable, Message: "the disk is full", Err: syscall.ENOSPC}, 507, "the disk is full", nil},
		{fmt.Errorf("a secret: %w", syscall.EDQUOT), 507, "the server's disk is full", nil},
		{nimbus.Errorf(nimbus.CodeConflict, "there"), 409, "there", nil},
		{nimbus.Errorf(nimbus.CodeConflict, "there"), 412, "there", []string{"If-None-Match", "*"}},
		{nimbus.Errorf(nimbus.CodeUnavailable, "away"), 424, "away", nil}, // at which nobody tries again
		{nimbus.Errorf(nimbus.CodeInvalid, "wrong"), 400, "wrong", nil},
		{fmt.Errorf("save: %w", &nimbus.Error{Code: nimbus.CodeRateLimited, Message: "often", RetryAfter: 1500 * time.Millisecond}), 429, "often", nil},
		{errors.New("a secret of the disk"), 500, "its log says", nil},
	} {
		d.fails = c.err
		a := d.ask(http.MethodPut, "k", "x", c.headers...)
		if a.StatusCode != c.status || !strings.Contains(a.body, c.says) || strings.Contains(a.body, "secret") || strings.Count(a.body, "\n") != 1 {
			t.Errorf("%v: %s %q", c.err, a.Status, a.body)
		}
		if c.status == 429 && a.Header.Get("Retry-After") != "2" {
			t.Errorf("when to come again: %v", a.Header)
		}
		a = d.ask(http.MethodPut, "v8/artifacts/abc", "x", c.headers...)
		if want := map[int]int{507: 424}[c.status]; !strings.HasPrefix(a.body, `{"error":{"code":`) || a.StatusCode != cmp.Or(want, c.status) {
			t.Errorf("Turborepo is told %s %s", a.Status, a.body)
		}
		a = d.ask(http.MethodPut, "v1/cache/abc", "x", c.headers...)
		if want := map[int]int{400: 400, 409: 409}[c.status]; a.StatusCode != cmp.Or(want, 403) || !strings.Contains(a.body, c.says) || a.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("%v: to save Nx is told %s %v %s", c.err, a.Status, a.Header, a.body)
		}
		a = d.ask(http.MethodGet, "v1/cache/abc", "")
		if want := map[int]int{400: 400, 409: 409}[c.status]; c.headers == nil && a.StatusCode != cmp.Or(want, 404) {
			t.Errorf("%v: to restore Nx is told %s %s", c.err, a.Status, a.body)
		}
	}
}

// TestContentsAreAway: while a look-up works and its content can't be had, that is a
// miss, with which every client goes on; nothing of the content's is told.
func TestContentsAreAway(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, path := range []string{"k", "v8/artifacts/abc"} {
		d.ask(http.MethodPut, path, "content")
		d.away = nimbus.Errorf(nimbus.CodeUnavailable, "a secret of the bucket's")
		a := d.ask(http.MethodGet, path, "", "Range", "bytes=1-2")
		if _, told := transfer.TakeEntry(a.Header); a.StatusCode != http.StatusNotFound || told || a.Header.Get("ETag") != "" || a.Header.Get("Content-Range") != "" ||
			!strings.Contains(a.body, "away") || strings.Contains(a.body, "secret") {
			t.Errorf("%s: %s %v %s", path, a.Status, a.Header, a.body)
		}
		if d.away = nil; d.ask(http.MethodGet, path, "").body != "content" {
			t.Errorf("%s is not back", path)
		}
	}
	d.fails = nimbus.Errorf(nimbus.CodeUnavailable, "busy")
	if a := d.ask(http.MethodGet, "k", ""); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a look-up that fails is no miss: %s", a.Status)
	}
}

// TestWhoEndsMeanwhile: who could put a content when it began to come, and can't
// once it came, has not saved it; be it a job or a person.
func TestWhoEndsMeanwhile(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.came = func() { d.ended = true }
	if a := d.ask(http.MethodPut, "k", "x"); a.StatusCode != http.StatusUnauthorized || len(d.entries) != 0 {
		t.Errorf("%s %s, and %d entries", a.Status, a.body, len(d.entries))
	}
	caller := cache.Caller{OrgID: nimbus.DefaultOrgID, Write: "main", Read: []string{"main"}}
	revoked := false
	d.came = func() { revoked = true }
	person := httptest.NewServer(keyed.New(keyed.Config{Cache: d.shelf, Log: slog.New(slog.DiscardHandler)}).As(caller, func(context.Context) error {
		if revoked {
			return nimbus.Errorf(nimbus.CodeUnauthenticated, "the token was revoked")
		}
		return nil
	}))
	t.Cleanup(person.Close)
	d.url = person.URL + keyed.Prefix + nimbus.DefaultOrgID + "/"
	if a := d.ask(http.MethodPut, "k", "x"); a.StatusCode != http.StatusUnauthorized || len(d.entries) != 0 {
		t.Errorf("a person: %s %s, and %d entries", a.Status, a.body, len(d.entries))
	}
	d.came, revoked = nil, false
	if a := d.ask(http.MethodPut, "k", "x"); a.StatusCode != http.StatusCreated {
		t.Errorf("a person who may: %s %s", a.Status, a.body)
	}
}

// TestIfMatch: a PUT takes the place of what its client has seen, and of nothing else.
func TestIfMatch(t *testing.T) {
	t.Parallel()
	d := open(t)
	put := func(match string, want int) string {
		t.Helper()
		a := d.ask(http.MethodPut, "k", "of "+match, "If-Match", match)
		if a.StatusCode != want {
			t.Errorf("If-Match: %s: %s %s, want %d", match, a.Status, a.body, want)
		}
		return a.Header.Get("ETag")
	}
	put("*", http.StatusPreconditionFailed)
	put(`"1"`, http.StatusPreconditionFailed)
	first := d.ask(http.MethodPut, "k", "first").Header.Get("ETag")
	second := put(`"x", `+first, http.StatusCreated)
	put(first, http.StatusPreconditionFailed)
	put(second, http.StatusCreated)
	put("*", http.StatusCreated)
	if a := d.ask(http.MethodGet, "k", ""); a.body != "of *" {
		t.Errorf("it is %q", a.body)
	}
}

// TestNotesOfTurborepo come back with the content, and are bounded.
func TestNotesOfTurborepo(t *testing.T) {
	t.Parallel()
	d := open(t)
	if a := d.ask(http.MethodPut, "v8/artifacts/abc", "x", "X-Artifact-Tag", "tag=", "X-Artifact-Duration", "1234"); a.StatusCode != http.StatusAccepted || a.body != `{"urls":[]}` {
		t.Errorf("%s %s", a.Status, a.body)
	}
	if a := d.ask(http.MethodGet, "v8/artifacts/abc", ""); a.body != "x" || a.Header.Get("X-Artifact-Tag") != "tag=" || a.Header.Get("X-Artifact-Duration") != "1234" {
		t.Errorf("%s %v", a.Status, a.Header)
	}
	for name, value := range map[string]string{"X-Artifact-Tag": strings.Repeat("x", 601), "X-Artifact-Duration": "1e9", "x-artifact-tag": "\u00e4"} {
		if a := d.ask(http.MethodPut, "v8/artifacts/abc", "x", name, value); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %.10s…: %s", name, value, a.Status)
		}
	}
	if a := d.ask(http.MethodGet, "v8/artifacts/status", ""); a.body != `{"status":"enabled"}` {
		t.Errorf("status: %s", a.body)
	}
	if a := d.ask(http.MethodPost, "v8/artifacts/events", strings.Repeat(" ", 1<<20)); a.StatusCode != http.StatusOK {
		t.Errorf("events: %s", a.Status)
	}
	if a := d.ask(http.MethodPost, "v8/artifacts/events", strings.Repeat(" ", 1<<20+1)); a.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too many events: %s", a.Status)
	}
}

// TestFolders are all there, and hold nothing.
func TestFolders(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.ask(http.MethodPut, "a/k", "12345")
	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"MKCOL", "a/", 201, ""}, {"PROPFIND", "a/", 207, "<D:collection>"}, {"PROPFIND", "", 207, "<D:collection>"}, {"PROPFIND", "a/", 207, "<D:getlastmodified>"},
		{"PROPFIND", "a/k", 207, "<D:getcontentlength>5</D:getcontentlength>"}, {"PROPFIND", "a/none", 404, ""}, {http.MethodGet, "a/", 404, "names no key"},
	} {
		if a := d.ask(c.method, c.path, ""); a.StatusCode != c.status || !strings.Contains(a.body, c.says) {
			t.Errorf("%s %s: %s %s", c.method, c.path, a.Status, a.body)
		}
	}
}
