package cache_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// path is the URL of a key of the caller's org.
func (r raw) path(key string) string { return r.url + "/cache/" + nimbus.DefaultOrgID + "/" + key }

// ask sends a request about a key, with the token.
func (r raw) ask(method, key, content string, headers ...string) answer {
	r.t.Helper()
	return r.send(method, r.path(key), strings.NewReader(content), append(headers, "Authorization", "Bearer "+r.token)...)
}

// is fails unless a key has a content; "" stands for none.
func (r raw) is(key, want string) {
	r.t.Helper()
	a := r.ask("GET", key, "")
	if want == "" && a.status != http.StatusNotFound || want != "" && (a.status != http.StatusOK || a.body != want) {
		r.t.Errorf("%s: %d %.100q, want %.100q", key, a.status, a.body, want)
	}
}

func sum(content string) string {
	s := sha256.Sum256([]byte(content))
	return hex.EncodeToString(s[:])
}

// both runs a test against the server, and through a host that keeps copies.
func both(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(t, cache.Limits{}))
	})
	t.Run("host", func(t *testing.T) {
		t.Parallel()
		test(t, newHost(t, 100*MiB).world)
	})
}

// TestKeyed is what any HTTP client does with a key.
func TestKeyed(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		me := w.as(job())
		me.is("a/b.txt", "")
		for _, content := range []string{"first", "second, which is longer", "3"} {
			if a := me.ask("PUT", "a/b.txt", content); a.status != http.StatusCreated {
				t.Fatal(a.status, a.body)
			}
			me.is("a/b.txt", content)
			me.is("a/b.txt", content) // and again, as from where it is kept now
		}
		large := strings.Repeat("0123456789", MiB)
		me.ask("PUT", "large", large)
		me.is("large", large)
		for header, from := range map[string]int{"Range": 7, "x-ms-range": 5 * MiB} {
			if a := me.ask("GET", "large", "", header, fmt.Sprintf("bytes=%d-%d", from, from+99)); a.status != http.StatusPartialContent || a.body != large[from:from+100] {
				t.Errorf("%s: %d, %d bytes", header, a.status, len(a.body))
			}
		}
		head := me.ask("HEAD", "large", "")
		if head.status != http.StatusOK || head.header.Get("Content-Length") != fmt.Sprint(len(large)) || head.header.Get("ETag") == "" {
			t.Errorf("HEAD: %d %v", head.status, head.header)
		}
		for header, want := range map[string]int{"If-None-Match": http.StatusNotModified, "If-Match": http.StatusOK} {
			if a := me.ask("GET", "large", "", header, head.header.Get("ETag")); a.status != want {
				t.Errorf("%s: %d", header, a.status)
			}
		}
		if a := me.ask("GET", "large", "", "If-Match", `"1"`); a.status != http.StatusPreconditionFailed || a.body != "" {
			t.Errorf("another If-Match: %d %.50s", a.status, a.body)
		}
		if a := me.ask("PUT", "large", "x", "If-None-Match", "*"); a.status != http.StatusPreconditionFailed {
			t.Errorf("a second, only if there is none: %d", a.status)
		}
		if a := me.ask("GET", "large", "", "Range", "bytes=99999999-"); a.status != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("behind the end: %d", a.status)
		}
		me.ask("PUT", "empty", "")
		if a := me.ask("GET", "empty", ""); a.status != http.StatusOK || a.body != "" {
			t.Errorf("an empty one: %d %q", a.status, a.body)
		}
		if a := me.ask("DELETE", "large", ""); a.status != http.StatusNoContent {
			t.Errorf("DELETE: %d %s", a.status, a.body)
		}
		me.is("large", "")
		if a := me.ask("DELETE", "large", ""); a.status != http.StatusNotFound || a.body != "there is no such entry in the cache\n" {
			t.Errorf("DELETE again: %d %s", a.status, a.body)
		}
	})
}

// TestKeyedEscapes: what clients escape of a key is the key, by a host too; what
// could lead elsewhere is not.
func TestKeyedEscapes(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		me := w.as(job())
		if a := me.ask("PUT", "a%2Bb%3dc%3Ad%40e%2cf%7Eg", "escaped"); a.status != http.StatusCreated {
			t.Fatalf("%d %s", a.status, a.body)
		}
		me.is("a+b=c:d@e,f~g", "escaped")
		me.is("a%2bb%3Dc%3ad%40e%2Cf%7eg", "escaped")
		for _, key := range []string{"%2e%2e/a", "a%5cb", "a%2540b", "a%00"} {
			if a := me.ask("PUT", key, "x"); a.status != http.StatusBadRequest && a.status != http.StatusNotFound {
				t.Errorf("%s: %d", key, a.status)
			}
		}
	})
}

// TestKeyedWithoutBlobs: while the object store is away a host gives what it has, and
// the rest is a miss, and a save that nobody tries again.
func TestKeyedWithoutBlobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	w.as(job()).ask("PUT", "elsewhere", "content")
	h := w.throughHost(100 * MiB)
	me := w.as(job())
	me.ask("PUT", "here", "kept")
	w.away.Store(true)
	me.is("here", "kept")
	if a := me.ask("GET", "elsewhere", ""); a.status != http.StatusNotFound || !strings.Contains(a.body, "away") {
		t.Errorf("a content that can't be had: %d %s", a.status, a.body)
	}
	if a := me.ask("PUT", "new", "x"); a.status != http.StatusFailedDependency || !strings.Contains(a.body, "away") {
		t.Errorf("a save: %d %s", a.status, a.body)
	}
	w.away.Store(false)
	me.is("elsewhere", "content")
	me.is("new", "")
	if n := len(h.files()); n == 0 {
		t.Error("the host keeps nothing")
	}
}

// TestKeyedTokens: who may, by whatever way a token is sent, and nobody else.
func TestKeyedTokens(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		me := w.as(job())
		me.ask("PUT", "k", "mine")
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("anybody:"+me.token))
		if a := me.send("GET", me.path("k"), nil, "Authorization", basic); a.body != "mine" {
			t.Errorf("as a password: %d %s", a.status, a.body)
		}
		other := w.otherOrg()
		for what, c := range map[string]struct {
			path, authorization string
			status              int
		}{
			"no token":                {"", "", 401},
			"a wrong one":             {"", "Bearer x", 401},
			"an empty password":       {"", "Basic " + base64.StdEncoding.EncodeToString([]byte("x:")), 401},
			"a user's name":           {"", "Basic " + base64.StdEncoding.EncodeToString([]byte(me.token+":x")), 401},
			"the path of another org": {w.url + "/cache/" + other + "/k", "Bearer " + me.token, 403},
			"a token of another org":  {"", "Bearer " + w.token(job(func(c *cache.Caller) { c.OrgID = other })), 403},
			"another repository's":    {"", "Bearer " + w.token(job(func(c *cache.Caller) { c.Repo = "acme/other" })), 404},
			"another branch's":        {"", "Bearer " + w.token(job(func(c *cache.Caller) { c.Read = []string{topicRef} })), 404},
			"one that only writes":    {"", "Bearer " + w.token(job(func(c *cache.Caller) { c.Read = nil })), 403},
		} {
			path := c.path
			if path == "" {
				path = me.path("k")
			}
			a := me.send("GET", path, nil, "Authorization", c.authorization)
			if a.status != c.status || strings.Contains(a.body, "mine") || c.status == 401 && a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: %d %s %v", what, a.status, a.body, a.header)
			}
		}
		reads := w.as(job(readOnly))
		reads.is("k", "mine")
		for _, method := range []string{"PUT", "DELETE"} {
			if a := reads.ask(method, "k", "other"); a.status != http.StatusForbidden || !strings.Contains(a.body, "cache write denied") {
				t.Errorf("%s with a token that reads: %d %s", method, a.status, a.body)
			}
		}
		topic := w.as(job(onTopic))
		topic.is("k", "mine") // its base's
		topic.ask("PUT", "k", "the topic's")
		topic.is("k", "the topic's")
		me.is("k", "mine")
		if a := w.as(job(func(c *cache.Caller) { c.Repo = "acme/other" })).ask("DELETE", "k", ""); a.status != http.StatusNotFound {
			t.Errorf("another repository removes it: %d", a.status)
		}
		me.is("k", "mine")
	})
}

// TestKeyedKeys: keys are plain text within bounds, and none is a path.
func TestKeyedKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me := w.as(job())
	for key, status := range map[string]int{
		"ok/a.b_c-d+e=f~g:h@i,j": 201, strings.Repeat("k", cache.MaxKey): 201, strings.Repeat("k", cache.MaxKey+1): 413,
		"%2e%2e/x": 400, "a/%2e%2e/x": 400, "a/%2e/x": 400, "a%2f%2fb": 400, "a%00b": 400, "a%0ab": 400, "%C3%A4": 400, "a%5cb": 400, "a%20b": 400, "a;b": 400, "$(id)": 400,
	} {
		if a := me.ask("PUT", key, "x"); a.status != status {
			t.Errorf("%.60s: %d %s", key, a.status, a.body)
		}
	}
	for _, method := range []string{"POST", "PATCH", "OPTIONS", "TRACE"} {
		if a := me.ask(method, "k", ""); a.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, a.status)
		}
	}
	if a := me.ask("PUT", "k", "x", "Content-Range", "bytes 0-0/5"); a.status != http.StatusBadRequest {
		t.Errorf("a part is put: %d", a.status)
	}
}

// TestKeyedBounds: what is too large is refused with the reason, and nothing of it
// is kept; what was there stays.
func TestKeyedBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{Entry: 3 * MiB, Repo: 4 * MiB})
	me := w.as(job())
	me.ask("PUT", "k", "small")
	if a := me.ask("PUT", "k", strings.Repeat("x", 3*MiB+1)); a.status != http.StatusRequestEntityTooLarge || !strings.Contains(a.body, "3145728") {
		t.Errorf("an entry that is too large: %d %s", a.status, a.body)
	}
	a := me.send("PUT", me.path("k"), struct{ *strings.Reader }{strings.NewReader(strings.Repeat("x", 3*MiB+1))}, "Authorization", "Bearer "+me.token)
	if a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("one that does not say so: %d %s", a.status, a.body)
	}
	me.is("k", "small")
	w.must(w.cache.SetQuota(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin}, nimbus.DefaultOrgID, "acme/app", MiB))
	if a := me.ask("PUT", "k", strings.Repeat("x", 2*MiB)); a.status != http.StatusInsufficientStorage || !strings.Contains(a.body, "acme/app") {
		t.Errorf("a quota: %d %s", a.status, a.body)
	}
	me.is("k", "small")
	st, err := w.cache.Stats(t.Context(), nimbus.DefaultOrgID)
	w.must(err)
	if st.Entries != 1 || st.Bytes != int64(len("small")) {
		t.Errorf("the books: %+v", st.Usage)
	}
}

// TestBazel: blobs are what their names say, or are not taken; actions are put
// again when they were run again.
func TestBazel(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		me := w.as(job())
		blob := strings.Repeat("a blob", MiB/6)
		cas, ac := "cas/"+sum(blob), "ac/"+sum("an action")
		if a := me.ask("PUT", cas, blob[1:]+"x"); a.status != http.StatusBadRequest || !strings.Contains(a.body, sum(blob)) {
			t.Errorf("another content: %d %s", a.status, a.body)
		}
		me.is(cas, "")
		if st, err := w.cache.Stats(t.Context(), nimbus.DefaultOrgID); err != nil || st.Bytes != 0 || st.Entries != 0 {
			t.Errorf("of what was refused something is kept: %+v, %v", st, err)
		}
		for range 2 {
			if a := me.ask("PUT", cas, blob); a.status != http.StatusCreated {
				t.Errorf("a blob: %d %s", a.status, a.body)
			}
			me.is(cas, blob)
		}
		// It is there: another content is refused all the same, of whichever length.
		for _, wrong := range []string{"another", blob + "x", blob[1:] + "x", ""} {
			if a := me.ask("PUT", cas, wrong); a.status != http.StatusBadRequest || !strings.Contains(a.body, sum(wrong)) {
				t.Errorf("another content of a blob that is there: %d %s", a.status, a.body)
			}
			me.is(cas, blob)
		}
		for _, result := range []string{"one result", "another result"} {
			if a := me.ask("PUT", ac, result); a.status != http.StatusCreated {
				t.Errorf("an action: %d %s", a.status, a.body)
			}
			me.is(ac, result)
		}
		me.is("cas/"+sum("an action"), "")
		var all sync.WaitGroup
		racing := strings.Repeat("raced", MiB/5)
		for range 5 {
			all.Go(func() {
				if a := me.ask("PUT", "cas/"+sum(racing), racing); a.status != http.StatusCreated {
					t.Errorf("one of five: %d %s", a.status, a.body)
				}
			})
			all.Go(func() {
				if a := me.ask("PUT", "ac/"+sum(racing), racing); a.status != http.StatusCreated {
					t.Errorf("one of five actions: %d %s", a.status, a.body)
				}
			})
		}
		all.Wait()
		me.is("cas/"+sum(racing), racing)
		me.is("ac/"+sum(racing), racing)
	})
}

// TestTurborepoProtocol: what the client wants to have again with a content.
func TestTurborepoProtocol(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		me := w.as(job())
		if a := me.ask("GET", "v8/artifacts/status", ""); a.status != http.StatusOK || a.text("status") != "enabled" {
			t.Errorf("status: %d %s", a.status, a.body)
		}
		if a := me.ask("GET", "v8/artifacts/0123456789abcdef?teamId=team_x&slug=acme", ""); a.status != http.StatusNotFound {
			t.Errorf("a miss: %d %s", a.status, a.body)
		}
		put := me.ask("PUT", "v8/artifacts/0123456789abcdef?slug=acme", "an artifact", "x-artifact-tag", "Tc0BmHvJYMIYJ62/zx87YqO0Flxk+5Ovip25NY825CQ=", "x-artifact-duration", "4200", "Content-Type", "application/octet-stream")
		if put.status != http.StatusAccepted || put.fields["urls"] == nil {
			t.Errorf("a PUT: %d %s", put.status, put.body)
		}
		for _, method := range []string{"GET", "HEAD"} {
			a := me.ask(method, "v8/artifacts/0123456789abcdef?slug=another", "")
			if a.status != http.StatusOK || a.header.Get("X-Artifact-Tag") != "Tc0BmHvJYMIYJ62/zx87YqO0Flxk+5Ovip25NY825CQ=" || a.header.Get("X-Artifact-Duration") != "4200" {
				t.Errorf("%s: %d %v", method, a.status, a.header)
			}
			if method == "GET" && a.body != "an artifact" {
				t.Errorf("%q", a.body)
			}
		}
		if a := me.ask("POST", "v8/artifacts/events", `[{"sessionId":"x","source":"REMOTE","event":"HIT","hash":"0123456789abcdef","duration":1}]`); a.status != http.StatusOK {
			t.Errorf("events: %d %s", a.status, a.body)
		}
		if a := me.ask("PUT", "v8/artifacts/0123456789abcdef", "x", "x-artifact-tag", strings.Repeat("x", 601)); a.status != http.StatusBadRequest || a.fields["error"] == nil {
			t.Errorf("a tag that is too long: %d %s", a.status, a.body)
		}
	})
}

// TestNxProtocol: a hash is taken once.
func TestNxProtocol(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		me := w.as(job())
		me.is("v1/cache/123", "")
		if a := me.ask("PUT", "v1/cache/123", "a task"); a.status != http.StatusOK {
			t.Errorf("a PUT: %d %s", a.status, a.body)
		}
		if a := me.ask("PUT", "v1/cache/123", "another"); a.status != http.StatusConflict {
			t.Errorf("a second: %d %s", a.status, a.body)
		}
		me.is("v1/cache/123", "a task")
	})
}

// TestWebDAV: what clients of it ask before they put a content.
func TestWebDAV(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me := w.as(job())
	if a := me.ask("PROPFIND", "a/b/", "", "Depth", "0"); a.status != http.StatusMultiStatus || !strings.Contains(a.body, "<D:collection>") {
		t.Errorf("a folder: %d %s", a.status, a.body)
	}
	if a := me.ask("MKCOL", "a/b/", ""); a.status != http.StatusCreated {
		t.Errorf("MKCOL: %d %s", a.status, a.body)
	}
	if a := me.ask("PROPFIND", "a/b/c", "", "Depth", "0"); a.status != http.StatusNotFound {
		t.Errorf("what is not there: %d %s", a.status, a.body)
	}
	me.ask("PUT", "a/b/c", "content")
	if a := me.ask("PROPFIND", "a/b/c", "", "Depth", "0"); a.status != http.StatusMultiStatus || !strings.Contains(a.body, "<D:getcontentlength>7<") || strings.Contains(a.body, "<D:collection>") {
		t.Errorf("what is there: %d %s", a.status, a.body)
	}
}

// TestKeyedBreaksOff: of a content that comes in part nothing is there, and what
// was there stays.
func TestKeyedBreaksOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me := w.as(job())
	me.ask("PUT", "k", "before")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, me.path("k"), breaks{strings.NewReader(strings.Repeat("x", MiB))})
	w.must(err)
	r.ContentLength = 2 * MiB
	r.Header.Set("Authorization", "Bearer "+me.token)
	if a, err := http.DefaultClient.Do(r); err == nil {
		a.Body.Close()
		t.Errorf("half a content: %s", a.Status)
	}
	me.is("k", "before")
	w.wait("the books are right", func() bool {
		st, err := w.cache.Stats(t.Context(), nimbus.DefaultOrgID)
		return err == nil && st.Entries == 1 && st.Bytes == int64(len("before"))
	})
}

// breaks is a body that ends too early.
type breaks struct{ *strings.Reader }
