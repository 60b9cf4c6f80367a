package cache_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
)

// TestKeysAreNoPaths: a key is what it is, in every spelling, and never another.
func TestKeysAreNoPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me, other := w.as(job()), w.as(job(func(c *cache.Caller) { c.Repo = "acme/other" }))
	other.keep("deps", "of another repository")
	keys := []string{
		"../other/deps", "..%2Fother%2Fdeps", `..\deps`, "..%252fother", "/etc/passwd", "deps/../deps", "./deps", "deps/", "//deps", "deps%00", "%2e%2e/deps",
		"de\u200bps", "ｄｅｐｓ", "DEPS", "deps ", " deps", "' OR 1=1 --", "dep_", "dep%", "*", "deps?sig=1", "deps#1", "\U0001f4a9", strings.Repeat("k", cache.MaxKey),
		"{{ deps }}", "$(id)", "<Latest>", "a&b=c", "..", ".", "con", "cache write denied: ",
	}
	for _, key := range keys {
		me.keep(key, "content of "+key)
	}
	for _, key := range keys {
		me.holds(key, "content of "+key)
		other.holds(key, "")
	}
	other.holds("deps", "of another repository")
	for what, key := range map[string]string{
		"nothing": "", "too long": strings.Repeat("k", cache.MaxKey+1), "a NUL": "a\x00b", "a line break": "a\nb", "bytes beyond UTF-8": "\xff\xfe",
	} {
		body := fmt.Appendf(nil, `{"key":"%s","version":"%s"}`, strings.NewReplacer("\x00", `\u0000`, "\n", `\n`).Replace(key), version)
		for _, method := range []string{"CreateCacheEntry", "GetCacheEntryDownloadURL"} {
			a := me.send("POST", w.url+twirpPath+method, bytes.NewReader(body), "Authorization", "Bearer "+me.token, "Content-Type", "application/json")
			w.refused(method+" of a key of "+what, a, http.StatusBadRequest)
		}
		a := me.send("POST", w.url+"/_apis/artifactcache/caches", bytes.NewReader(body), "Authorization", "Bearer "+me.token)
		w.refused("version 1 of a key of "+what, a, http.StatusBadRequest)
	}
	// Versions are as keys are.
	for _, v := range []string{"../" + version, version + "/..", version[1:], strings.ToUpper(version)} {
		if a := me.call("GetCacheEntryDownloadURL", map[string]any{"key": "deps ", "version": v}); a.ok() || a.status != http.StatusOK {
			t.Errorf("the version %q: %d %s", v, a.status, a.body)
		}
	}
}

// TestSignedURLs: a URL is good for one thing, of one org, for its time.
func TestSignedURLs(t *testing.T) {
	t.Parallel()
	var ahead time.Duration
	w := newWorld(t, cache.Limits{}, func(cfg *actions.Config) { cfg.Clock = clock(func() time.Time { return time.Now().Add(ahead) }) })
	other := w.otherOrg()
	me, foreign := w.as(job()), w.as(job(func(c *cache.Caller) { c.OrgID = other }))
	was := me.uploadURL("mine") // its number stays the entry's
	me.putBlob(was, "my secret")
	me.finalize("mine", len("my secret"))
	foreign.keep("theirs", "their secret")
	get, put := me.find("mine").text("signed_download_url"), me.uploadURL("open")
	getTheirs, putTheirs := foreign.find("theirs").text("signed_download_url"), foreign.uploadURL("open")
	nobody := raw{w, ""}
	if a := nobody.send("GET", get, nil); a.body != "my secret" {
		t.Fatalf("the URL that the others differ from: %d %s", a.status, a.body)
	}
	edit := func(target string, change func(u *url.URL, q url.Values)) string {
		u, err := url.Parse(target)
		w.must(err)
		q := u.Query()
		change(u, q)
		u.RawQuery = q.Encode()
		return u.String()
	}
	path := func(target string) string {
		return edit(target, func(u *url.URL, q url.Values) { u.Host = ""; u.Scheme = ""; clear(q) })
	}
	in := func(target, from string) string { // the path of one with the signature of another
		_, query, _ := strings.Cut(from, "?")
		return w.url + strings.TrimSuffix(path(target), "?") + "?" + query
	}
	bad := map[string]string{
		"without a query":             strings.Split(get, "?")[0],
		"without a signature":         edit(get, func(_ *url.URL, q url.Values) { q.Del("sig") }),
		"with an empty signature":     edit(get, func(_ *url.URL, q url.Values) { q.Set("sig", "") }),
		"with a bit less":             edit(get, func(_ *url.URL, q url.Values) { q.Set("sig", q.Get("sig")[1:]) }),
		"with another bit":            edit(get, func(_ *url.URL, q url.Values) { q.Set("sig", flip(q.Get("sig"))) }),
		"with two signatures":         get + "&sig=" + strings.Repeat("A", 43),
		"that lasts longer":           edit(get, func(_ *url.URL, q url.Values) { q.Set("exp", "99999999999") }),
		"that lasts longer, by a +":   edit(get, func(_ *url.URL, q url.Values) { q.Set("exp", "+"+q.Get("exp")) }),
		"of another org":              edit(get, func(_ *url.URL, q url.Values) { q.Set("org", other) }),
		"of another entry":            in(getTheirs, get),
		"of an upload, to read":       in(get, put),
		"of the upload that it was":   strings.Replace(was, "/uploads/", "/entries/", 1),
		"of a number with a zero":     strings.Replace(get, "/entries/", "/entries/0", 1),
		"of a number with a sign":     strings.Replace(get, "/entries/", "/entries/+", 1),
		"of a number behind a folder": strings.Replace(get, "/entries/", "/entries/x%2f..%2f", 1),
		"with a semicolon":            get + "&a;b",
	}
	for what, target := range bad {
		for _, method := range []string{"GET", "HEAD"} {
			a := nobody.send(method, target, nil)
			if a.status < 400 || strings.Contains(a.body, "secret") {
				t.Errorf("%s %s: %d %s", method, what, a.status, a.body)
			}
		}
	}
	for what, target := range map[string]string{
		"of a download":     get,
		"of a download, to": in(put, get),
		"of another upload": in(putTheirs, put),
		"of another org":    edit(put, func(_ *url.URL, q url.Values) { q.Set("org", other) }),
		"without":           strings.Split(put, "?")[0] + "?x=y",
	} {
		a := nobody.putBlob(target, "poison")
		w.refused("upload "+what, a, http.StatusForbidden, http.StatusNotFound)
		w.refused("a block "+what, nobody.putBlock(target, "1", "poison"), http.StatusForbidden, http.StatusNotFound)
		w.refused("a list "+what, nobody.putList(target, "1"), http.StatusForbidden, http.StatusNotFound)
	}
	// It is not that a path takes no such call: both are good for what they are for.
	if a := nobody.putBlob(put, "fine"); a.status != http.StatusCreated {
		t.Errorf("an upload: %d %s", a.status, a.body)
	}
	ahead = 2 * time.Hour // the token is good for one
	w.refused("a download that has expired", nobody.send("GET", get, nil), http.StatusForbidden)
	w.refused("an upload that has expired", nobody.putBlob(put, "late"), http.StatusForbidden)
	w.refused("a token that has expired", me.find("mine"), http.StatusUnauthorized)
	ahead = 0
	foreign.holds("theirs", "their secret")
	me.holds("mine", "my secret")
}

type clock func() time.Time

func (c clock) Now() time.Time { return c() }

// flip is a text with its first letter changed.
func flip(text string) string {
	if text[0] == 'A' {
		return "B" + text[1:]
	}
	return "A" + text[1:]
}

// otherOrg makes another org, and returns its id.
func (w *world) otherOrg() string {
	w.t.Helper()
	id := nimbus.NewID(nimbus.PrefixOrg, time.Now())
	w.must(w.db.CreateOrg(w.t.Context(), nimbus.Org{ID: id, Name: "other"}, nimbus.AuditEvent{}))
	return id
}

// TestScopes: who may read and write what, by all ways in.
func TestScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	other := w.otherOrg()
	on := func(edit func(c *cache.Caller)) raw { return w.as(job(edit)) }
	main, topic := on(func(*cache.Caller) {}), on(onTopic)
	fork := on(func(c *cache.Caller) { c.Write, c.Read = "refs/pull/7/merge", []string{"refs/pull/7/merge", mainRef} })
	others := map[string]raw{
		"another repository":        on(func(c *cache.Caller) { c.Repo = "acme/other" }),
		"one that begins so":        on(func(c *cache.Caller) { c.Repo = "acme/app2" }),
		"the org's own":             on(func(c *cache.Caller) { c.Repo = "" }),
		"another org":               on(func(c *cache.Caller) { c.OrgID = other }),
		"another branch":            on(func(c *cache.Caller) { c.Write, c.Read = "refs/heads/x", []string{"refs/heads/x"} }),
		"a branch that begins so":   on(func(c *cache.Caller) { c.Write, c.Read = mainRef+"2", []string{mainRef + "2"} }),
		"a branch of all":           on(func(c *cache.Caller) { c.Write, c.Read = "refs/heads/%", []string{"refs/heads/%", "*", "refs/heads/"} }),
		"one in other letters":      on(func(c *cache.Caller) { c.Write, c.Read = "refs/heads/MAIN", []string{"refs/heads/MAIN"} }),
		"one with another's prefix": on(func(c *cache.Caller) { c.Write, c.Read = "refs/heads/mai", []string{"refs/heads/mai"} }),
	}
	main.keep("deps-1", "of main")
	for what, o := range others {
		if got, ok := o.content("deps-1", "deps-", "d"); ok {
			t.Errorf("%s reads %q", what, got)
		}
	}
	// A pull request can't poison what it is merged into, by no key.
	fork.holds("deps-1", "of main")
	for _, key := range []string{"deps-1", "deps-", "deps-2", "d", "deps-1 "} {
		fork.keep(key, "poison")
	}
	main.holds("deps-1", "of main")
	topic.holds("deps-1", "of main")
	for _, r := range []raw{main, topic} {
		if got, _ := r.content("deps-3", "deps-", "d"); got != "of main" {
			t.Errorf("a prefix finds %q", got)
		}
	}
	fork.holds("deps-1", "poison") // its own
	// What a client says of itself is not listened to.
	a := fork.call("CreateCacheEntry", map[string]any{
		"key": "named", "version": version, "metadata": map[string]any{"repository_id": "1", "scope": []any{map[string]any{"scope": mainRef, "permission": "3"}}},
		"scope": mainRef, "org": other, "repo": "acme/other",
	})
	if a := fork.putBlob(a.text("signed_upload_url"), "poison"); a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := fork.finalize("named", 6); !a.ok() {
		t.Fatal(a.body)
	}
	main.holds("named", "")
	// Nobody finishes the upload of others, nor reads one that is not finished.
	target := main.uploadURL("open")
	main.putBlob(target, "half")
	for what, o := range others {
		if a := o.finalize("open", 4); a.ok() {
			t.Errorf("%s commits an upload of main", what)
		}
	}
	main.holds("open", "")
	reader := on(readOnly)
	for what, a := range map[string]answer{"create": reader.create("x"), "finalize": reader.finalize("open", 4)} {
		if a.ok() || !strings.HasPrefix(a.text("message"), "cache write denied:") {
			t.Errorf("%s by who only reads: %d %s", what, a.status, a.body)
		}
	}
	writer := on(func(c *cache.Caller) { c.Read = nil })
	if a := writer.find("deps-1"); a.status != http.StatusForbidden || !strings.Contains(a.text("msg"), "cache read denied:") {
		t.Errorf("a look-up by who only writes: %d %s", a.status, a.body)
	}
	for _, token := range []string{"", "x", main.token + "x", strings.Repeat("x", 100_000)} {
		w.refused("a token of nothing", raw{w, token}.find("deps-1"), http.StatusUnauthorized)
	}
}

// TestUploadsOfVersion1AreTheirOwners: their ids are numbers in a path.
func TestUploadsOfVersion1AreTheirOwners(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	other := w.otherOrg()
	const base = "/_apis/artifactcache/"
	v1 := func(r raw, method, path, body string, headers ...string) answer {
		return r.send(method, w.url+base+path, strings.NewReader(body), append(headers, "Authorization", "Bearer "+r.token)...)
	}
	me := w.as(job())
	a := v1(me, "POST", "caches", `{"key":"k","version":"`+version+`"}`)
	id, _ := a.fields["cacheId"].(float64)
	if a.status != http.StatusCreated || id == 0 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	path := "caches/" + strconv.FormatInt(int64(id), 10)
	part := []string{"Content-Range", "bytes 0-5/*"}
	for what, edit := range map[string]func(*cache.Caller){
		"another repository": func(c *cache.Caller) { c.Repo = "acme/other" },
		"another branch":     onTopic,
		"another org":        func(c *cache.Caller) { c.OrgID = other },
		"who only reads":     readOnly,
	} {
		them := w.as(job(edit))
		w.refused("a part by "+what, v1(them, "PATCH", path, "poison", part...), http.StatusNotFound, http.StatusForbidden)
		w.refused("a commit by "+what, v1(them, "POST", path, `{"size":0}`), http.StatusNotFound, http.StatusForbidden)
	}
	for what, header := range map[string]string{
		"none": "", "negative": "bytes -1-4/*", "backwards": "bytes 5-0/*", "longer than the body": "bytes 0-6/*", "shorter": "bytes 0-4/*", "endless": "bytes 0-/*",
		"beyond all": "bytes 9223372036854775800-9223372036854775805/*",
	} {
		w.refused("a part whose range is "+what, v1(me, "PATCH", path, "poison", "Content-Range", header), http.StatusBadRequest)
	}
	for _, odd := range []string{"caches/0", "caches/-1", "caches/0" + path[7:], "caches/x", "caches/99999999999999999999", "caches/1"} {
		w.refused(odd, v1(me, "PATCH", odd, "poison", part...), http.StatusNotFound)
	}
	if a := v1(me, "PATCH", path, "secret", part...); a.status != http.StatusNoContent {
		t.Fatalf("%d %s", a.status, a.body)
	}
	w.refused("a size that lies", v1(me, "POST", path, `{"size":7}`), http.StatusBadRequest)
	w.refused("a size below nothing", v1(me, "POST", path, `{"size":-1}`), http.StatusBadRequest)
	w.refused("a size of no number", v1(me, "POST", path, `{"size":"6"}`), http.StatusBadRequest)
	for range 2 { // again: the answer to the first may have been lost
		if a := v1(me, "POST", path, `{"size":6}`); a.status != http.StatusNoContent {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if a := v1(me, "PATCH", path, "poison", part...); a.status < 400 {
		t.Errorf("a part after the end: %d", a.status)
	}
	me.holds("k", "secret")
	for what, c := range map[string]struct {
		reader raw
		count  float64
	}{
		"their own": {me, 1}, "a branch": {w.as(job(onTopic)), 1}, "another repository": {w.as(job(func(c *cache.Caller) { c.Repo = "acme/other" })), 0},
		"another org":    {w.as(job(func(c *cache.Caller) { c.OrgID = other })), 0},
		"another branch": {w.as(job(func(c *cache.Caller) { c.Write, c.Read = topicRef, []string{topicRef} })), 0},
	} {
		if a := v1(c.reader, "GET", "caches?key=k", ""); a.status != http.StatusOK || a.fields["totalCount"] != c.count {
			t.Errorf("a list for %s: %d %s", what, a.status, a.body)
		}
	}
	w.refused("a list for who only writes", v1(w.as(job(func(c *cache.Caller) { c.Read = nil })), "GET", "caches?key=k", ""), http.StatusForbidden)
	huge := v1(me, "POST", "caches", `{"key":"huge","version":"v","cacheSize":9223372036854775807}`)
	w.refused("the size of a bomb", huge, http.StatusBadRequest)
	w.refused("a call of 70 KB", v1(me, "POST", "caches", `{"key":"`+strings.Repeat("k", 70_000)+`"}`), http.StatusRequestEntityTooLarge)
}

// TestContentsAreWhatWasSent: an entry is the bytes that its owner sent, in the
// order that it said, or there is none.
func TestContentsAreWhatWasSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me := w.as(job())
	// Blocks out of order, one of them twice, one of them not in the list.
	target := me.uploadURL("blocks")
	for _, b := range [][2]string{{"c", "wrong"}, {"b", "lo wor"}, {"x", "not listed"}, {"c", "ld"}, {"a", "hel"}} {
		if a := me.putBlock(target, b[0], b[1]); a.status != http.StatusCreated || a.header.Get("X-Ms-Request-Id") == "" {
			t.Fatalf("block %s: %d %s", b[0], a.status, a.body)
		}
	}
	theirs := me.uploadURL("another")
	me.putBlock(theirs, "z", "of another upload")
	w.refused("a list with a foreign block", me.putList(target, "a", "b", "z"), http.StatusBadRequest)
	w.refused("a list with a block twice", me.putList(target, "a", "b", "b"), http.StatusBadRequest)
	if a := me.putList(target, "a", "b", "c"); a.status != http.StatusCreated {
		t.Fatalf("the list: %d %s", a.status, a.body)
	}
	for _, size := range []int{0, 10, 12, 21, 1 << 40} {
		if a := me.finalize("blocks", size); a.ok() {
			t.Errorf("a size of %d is believed", size)
		}
	}
	me.holds("blocks", "")
	for range 2 {
		if a := me.finalize("blocks", 11); !a.ok() || a.text("entry_id") == "" {
			t.Fatalf("finalize: %d %s", a.status, a.body)
		}
	}
	me.holds("blocks", "hello world")
	for what, a := range map[string]answer{
		"a block": me.putBlock(target, "a", "poison"), "a blob": me.putBlob(target, "poison"), "a list": me.putList(target, "x"),
	} {
		if a.status < 400 {
			t.Errorf("%s after the end: %d", what, a.status)
		}
	}
	me.holds("blocks", "hello world")
	w.refused("the key again", me.create("blocks"), http.StatusConflict)
	// Ranges over the edges of blocks.
	get := me.find("blocks").text("signed_download_url")
	for _, header := range []string{"Range", "x-ms-range"} {
		for from := range 11 {
			for to := from; to < 11; to++ {
				a := me.send("GET", get, nil, header, fmt.Sprintf("bytes=%d-%d", from, to))
				if want := "hello world"[from : to+1]; a.status != http.StatusPartialContent || a.body != want ||
					a.header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/11", from, to) || a.header.Get("Content-Length") != strconv.Itoa(len(want)) {
					t.Fatalf("%s %d-%d: %d %q %v", header, from, to, a.status, a.body, a.header)
				}
			}
		}
		a := me.send("GET", get, nil, header, "bytes=11-")
		if w.refused("beyond the end", a, http.StatusRequestedRangeNotSatisfiable); a.header.Get("Content-Range") != "bytes */11" {
			t.Errorf("%v", a.header)
		}
	}
	if a := me.send("HEAD", get, nil); a.header.Get("Content-Length") != "11" || a.body != "" || a.header.Get("ETag") == "" ||
		a.header.Get("Content-Disposition") != "attachment" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
}

// TestBlockListsAreBounded: a list is held in memory, so it has no more blocks than
// came, one of an upload comes at a time, and it comes at once.
func TestBlockListsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me := w.as(job())
	target := me.uploadURL("k")
	w.refused("a list of nothing that came", me.putList(target, "a"), http.StatusRequestEntityTooLarge)
	me.putBlock(target, "a", "content")
	w.refused("a list of more than came", me.putList(target, "a", "b"), http.StatusRequestEntityTooLarge)
	u, err := url.Parse(target)
	w.must(err)
	conn, err := net.Dial("tcp", u.Host)
	w.must(err)
	defer conn.Close()
	fmt.Fprintf(conn, "PUT %s&comp=blocklist HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n", u.RequestURI(), u.Host)
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") { // it is being read
		t.Fatalf("%q, %v", line, err)
	}
	a := me.putList(target, "a")
	if w.refused("a second list meanwhile", a, http.StatusServiceUnavailable); a.header.Get("Retry-After") == "" || a.header.Get("X-Ms-Error-Code") != "ServerBusy" {
		t.Errorf("clients don't try again: %v", a.header)
	}
	other := me.uploadURL("other")
	me.putBlock(other, "a", "x")
	if a := me.putList(other, "a"); a.status != http.StatusCreated {
		t.Errorf("the list of another upload: %d %s", a.status, a.body)
	}
	conn.Close()
	w.wait("the first is given up", func() bool { return me.putList(target, "a").status == http.StatusCreated })
	if a := me.finalize("k", len("content")); !a.ok() {
		t.Fatal(a.status, a.body)
	}
	me.holds("k", "content")
}

// TestTruncated: an upload that breaks off leaves nothing that could be committed.
func TestTruncated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me := w.as(job())
	target := me.uploadURL("cut")
	u, err := url.Parse(target)
	w.must(err)
	conn, err := net.Dial("tcp", u.Host)
	w.must(err)
	fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: %s\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 100\r\n\r\nhalf", u.RequestURI(), u.Host)
	w.must(conn.(*net.TCPConn).CloseWrite())
	if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil && strings.Contains(line, "201") {
		t.Errorf("half of it is taken: %s", line)
	}
	conn.Close()
	for _, size := range []int{4, 100} {
		if a := me.finalize("cut", size); a.ok() {
			t.Errorf("%d bytes of it are an entry", size)
		}
	}
	me.holds("cut", "")
	if a := me.putBlob(target, "whole"); a.status != http.StatusCreated {
		t.Fatalf("once more: %d %s", a.status, a.body)
	}
	if a := me.finalize("cut", 5); !a.ok() {
		t.Fatalf("%d %s", a.status, a.body)
	}
	me.holds("cut", "whole")
}

// TestParallelCommits: of many who save one key at once one does, whose bytes they are.
func TestParallelCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	const rounds, each = 10, 8
	for round := range rounds {
		key := fmt.Sprintf("race-%d", round)
		var all sync.WaitGroup
		var mu sync.Mutex
		var winners []string
		for n := range each {
			me := w.as(job(func(c *cache.Caller) { c.JobID = fmt.Sprintf("job_%d", n) }))
			content := strings.Repeat(strconv.Itoa(n), 1000+n)
			all.Go(func() {
				a := me.create(key)
				if a.status == http.StatusConflict {
					return
				}
				if a := me.putBlob(a.text("signed_upload_url"), content); a.status != http.StatusCreated {
					t.Errorf("%d %s", a.status, a.body)
				}
				var commits sync.WaitGroup
				for range 3 { // of which the answers got lost
					commits.Go(func() {
						if a := me.finalize(key, len(content)); !a.ok() {
							t.Errorf("%d %s", a.status, a.body)
						}
					})
				}
				commits.Wait()
				mu.Lock()
				defer mu.Unlock()
				winners = append(winners, content)
			})
		}
		all.Wait()
		if len(winners) != 1 {
			t.Fatalf("%d of them saved %s", len(winners), key)
		}
		w.as(job()).holds(key, winners[0])
	}
}

// TestOddCalls: what is no call of the protocol is refused in its words.
func TestOddCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me := w.as(job())
	authorized := []string{"Authorization", "Bearer " + me.token, "Content-Type"}
	for what, c := range map[string]struct {
		method, path, contentType, body string
		status                          int
	}{
		"another method":        {"POST", "DeleteCacheEntry", "application/json", "{}", 404},
		"by GET":                {"GET", "CreateCacheEntry", "application/json", "", 404},
		"another type":          {"POST", "CreateCacheEntry", "text/xml", "{}", 400},
		"no JSON":               {"POST", "CreateCacheEntry", "application/json", "{", 400},
		"deep JSON":             {"POST", "CreateCacheEntry", "application/json", strings.Repeat(`{"metadata":`, 5000) + strings.Repeat("}", 5000), 400},
		"no protobuf":           {"POST", "CreateCacheEntry", "application/protobuf", "\xff\xff\xff", 400},
		"too long":              {"POST", "CreateCacheEntry", "application/json", `{"key":"` + strings.Repeat("k", 70_000) + `"}`, 413},
		"a size below nothing":  {"POST", "FinalizeCacheEntryUpload", "application/json", `{"key":"k","version":"v","size_bytes":"-1"}`, 400},
		"a size beyond numbers": {"POST", "FinalizeCacheEntryUpload", "application/json", `{"key":"k","version":"v","size_bytes":"9223372036854775808"}`, 400},
		"many keys": {"POST", "GetCacheEntryDownloadURL", "application/json",
			`{"key":"k","version":"v","restore_keys":["` + strings.Join(slices.Repeat([]string{"k"}, 1000), `","`) + `"]}`, 400},
	} {
		a := me.send(c.method, w.url+twirpPath+c.path, strings.NewReader(c.body), append(authorized, c.contentType)...)
		w.refused(what, a, c.status)
	}
	target := me.uploadURL("k")
	w.refused("a blob of pages", me.send("PUT", target, strings.NewReader("x"), "x-ms-blob-type", "PageBlob"), 400)
	w.refused("a lease", me.send("PUT", target+"&comp=lease", nil), 400)
	w.refused("a block without an id", me.send("PUT", target+"&comp=block", strings.NewReader("x")), 400)
	w.refused("a block with a path for an id", me.send("PUT", target+"&comp=block&blockid=..%2F..%2F1", strings.NewReader("x")), 400)
	w.refused("a removal", me.send("DELETE", target, nil), 404)
	w.refused("a list of an entity", me.send("PUT", target+"&comp=blocklist", strings.NewReader(`<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><BlockList><Latest>&b;</Latest></BlockList>`)), 400)
	w.refused("version 1 of nothing", me.send("GET", w.url+"/_apis/artifactcache/x", nil, authorized[:2]...), 404)
}

// TestWhoIsRefusedIsNotWaitedFor: net/http reads on what a refused request still
// sends, so that its answer arrives; not for ever.
func TestWhoIsRefusedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{}, func(cfg *actions.Config) { cfg.Idle = 100 * time.Millisecond })
	for _, target := range []string{"POST " + twirpPath + "CreateCacheEntry", "POST /_apis/artifactcache/caches", "PUT /_cache/uploads/1?sig=x", "GET /_cache/entries/1", "DELETE /_cache/uploads/1"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		w.must(err)
		w.must(conn.SetDeadline(time.Now().Add(20 * time.Second)))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", target)
		answer, err := io.ReadAll(conn)
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) {
			t.Errorf("%s: %v after %.100q", target, err, answer)
		}
		conn.Close()
	}
}
