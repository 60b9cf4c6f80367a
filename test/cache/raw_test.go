package cache_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/cache"
)

// raw speaks the protocol by hand, with a token or without, and as no client does.
type raw struct {
	*world

	token string
}

func (w *world) as(c cache.Caller) raw { return raw{w, w.token(c)} }

// answer is what came back, whole.
type answer struct {
	status int
	header http.Header
	body   string
	fields map[string]any // of a body that is JSON
}

func (a answer) ok() bool { return a.fields["ok"] == true }

func (a answer) text(name string) string {
	text, _ := a.fields[name].(string)
	return text
}

// send sends a request, whose headers are names and values in turn.
func (r raw) send(method, target string, body io.Reader, headers ...string) answer {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), method, target, body)
	r.must(err)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	request.Host = request.Header.Get("Host")
	response, err := http.DefaultClient.Do(request)
	r.must(err)
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	r.must(err)
	a := answer{status: response.StatusCode, header: response.Header, body: string(read)}
	_ = json.Unmarshal(read, &a.fields) // or it is none
	return a
}

const twirpPath = "/twirp/github.actions.results.api.v1.CacheService/"

func (r raw) call(method string, fields map[string]any) answer {
	r.t.Helper()
	body, err := json.Marshal(fields)
	r.must(err)
	return r.send("POST", r.url+twirpPath+method, bytes.NewReader(body), "Authorization", "Bearer "+r.token, "Content-Type", "application/json")
}

func (r raw) create(key string) answer {
	r.t.Helper()
	return r.call("CreateCacheEntry", map[string]any{"key": key, "version": version})
}

func (r raw) finalize(key string, size int) answer {
	r.t.Helper()
	return r.call("FinalizeCacheEntryUpload", map[string]any{"key": key, "version": version, "size_bytes": size})
}

func (r raw) find(key string, restore ...string) answer {
	r.t.Helper()
	return r.call("GetCacheEntryDownloadURL", map[string]any{"key": key, "version": version, "restore_keys": restore})
}

const version = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// uploadURL takes a key.
func (r raw) uploadURL(key string) string {
	r.t.Helper()
	a := r.create(key)
	if !a.ok() {
		r.t.Fatalf("create %q: %d %s", key, a.status, a.body)
	}
	return a.text("signed_upload_url")
}

func (r raw) putBlob(target, content string) answer {
	r.t.Helper()
	return r.send("PUT", target, strings.NewReader(content), "x-ms-blob-type", "BlockBlob")
}

func (r raw) putBlock(target, id, content string) answer {
	r.t.Helper()
	return r.send("PUT", target+"&comp=block&blockid="+url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(id))), strings.NewReader(content))
}

func (r raw) putList(target string, ids ...string) answer {
	r.t.Helper()
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?><BlockList>`)
	for _, id := range ids {
		fmt.Fprintf(&b, "<Latest>%s</Latest>", base64.StdEncoding.EncodeToString([]byte(id)))
	}
	b.WriteString("</BlockList>")
	return r.send("PUT", target+"&comp=blocklist", strings.NewReader(b.String()))
}

// keep saves a content, or ends the test.
func (r raw) keep(key, content string) {
	r.t.Helper()
	if a := r.putBlob(r.uploadURL(key), content); a.status != http.StatusCreated {
		r.t.Fatalf("upload %q: %d %s", key, a.status, a.body)
	}
	if a := r.finalize(key, len(content)); !a.ok() {
		r.t.Fatalf("finalize %q: %d %s", key, a.status, a.body)
	}
}

// content is what a key finds, by a look-up and a download.
func (r raw) content(key string, restore ...string) (content string, ok bool) {
	r.t.Helper()
	found := r.find(key, restore...)
	if !found.ok() {
		return "", false
	}
	a := r.send("GET", found.text("signed_download_url"), nil)
	if a.status != http.StatusOK {
		r.t.Fatalf("download %q: %d %s", key, a.status, a.body)
	}
	return a.body, true
}

// holds fails unless a key finds a content; "" stands for nothing.
func (r raw) holds(key, want string) {
	r.t.Helper()
	if got, ok := r.content(key); got != want || ok != (want != "") {
		r.t.Errorf("%q holds %.100q, want %.100q", key, got, want)
	}
}

// refused fails unless an answer has a status, and the body of its protocol.
func (w *world) refused(what string, a answer, statuses ...int) {
	w.t.Helper()
	for _, status := range statuses {
		if a.status == status {
			if strings.Contains(a.body, "<Error><Code>") || a.text("msg") != "" || a.text("message") != "" {
				return
			}
			w.t.Errorf("%s: the answer is in no protocol's words: %d %.200s", what, a.status, a.body)
			return
		}
	}
	w.t.Errorf("%s: %d %.300s, want one of %v", what, a.status, a.body, statuses)
}
