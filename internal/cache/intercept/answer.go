package intercept

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"strings"
)

// service begins the paths of the cache.
const service = "/twirp/github.actions.results.api.v1.CacheService/"

// Bounds of a call of the cache.
const (
	maxCall   = 64 << 10
	maxAnswer = 1 << 20
)

// ours tells whether a request is one of the cache's calls: those and no others,
// by the path as it was sent, so that nothing else can be taken for one.
func ours(r *http.Request) bool {
	switch r.RequestURI {
	case service + "CreateCacheEntry", service + "FinalizeCacheEntryUpload", service + "GetCacheEntryDownloadURL":
		return r.Method == http.MethodPost
	}
	return false
}

// answer answers a request of a sandbox.
func (d *Door) answer(w http.ResponseWriter, r *http.Request) {
	v, ok := r.Context().Value(visitorKey{}).(*visitor)
	if !ok {
		panic(http.ErrAbortHandler) // no connection comes in another way
	}
	if host := strings.TrimSuffix(strings.ToLower(r.Host), fmt.Sprintf(":%d", Port)); host != v.name {
		refuse(w, http.StatusMisdirectedRequest, "bad_route", "this connection is for "+v.name+" alone")
		return
	}
	if ours(r) && d.cached(w, r, v.session) {
		return
	}
	if !v.session.Reach(v.name) {
		refuse(w, http.StatusForbidden, "permission_denied", "the job's network profile does not let it reach "+v.name)
		return
	}
	d.forward.ServeHTTP(w, r)
}

// cached has the cache answer a call. It is false where GitHub is to: then the
// request is as it came.
func (d *Door) cached(w http.ResponseWriter, r *http.Request, s *session) bool {
	call, err := io.ReadAll(io.LimitReader(r.Body, maxCall+1))
	rest := r.Body
	if r.Body = http.NoBody; err != nil {
		panic(http.ErrAbortHandler) // it broke off
	}
	again := func() bool {
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(call), rest), rest}
		return false
	}
	if len(call) > maxCall {
		return again()
	}
	ctx, cancel := context.WithTimeout(r.Context(), cacheTimeout)
	defer cancel()
	token, err := s.Token(ctx)
	if err != nil {
		return again()
	}
	answer, err := d.ask(ctx, r, token, call)
	if err != nil || !final(answer.status) {
		d.cfg.Log.DebugContext(ctx, "the cache does not answer: GitHub's is used", "sandbox", s.sandbox, "path", r.URL.Path, "error", err)
		return again()
	}
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if value := answer.header.Get(name); value != "" {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body) // to who may be gone
	return true
}

// said is an answer of the cache's.
type said struct {
	status int
	header http.Header
	body   []byte
}

// ask makes a call at the cache. Of what the client sent it has the body and of
// which form that is: its token is GitHub's.
func (d *Door) ask(ctx context.Context, r *http.Request, token string, call []byte) (said, error) {
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, d.cfg.Cache+r.URL.Path, bytes.NewReader(call))
	if err != nil {
		return said{}, fmt.Errorf("ask the cache: %w", err)
	}
	out.Host = d.cfg.CacheHost // contents are sent and fetched there
	for _, name := range []string{"Content-Type", "Accept"} {
		if value := r.Header.Get(name); value != "" {
			out.Header.Set(name, value)
		}
	}
	out.Header.Set("Authorization", "Bearer "+token)
	answer, err := d.cache.RoundTrip(out)
	if err != nil {
		return said{}, fmt.Errorf("ask the cache: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return said{}, fmt.Errorf("ask the cache: %w", err)
	}
	return said{answer.StatusCode, answer.Header, body}, nil
}

// final tells whether an answer of the cache's is the client's: that there is no
// cache, that it is broken or does not take the token is not.
func final(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed:
		return false
	}
	return status >= 200 && status < 300 || status >= 400 && status < 500
}

// rewrite has a request go to GitHub as it came.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "https", r.In.Host
	r.Out.URL.RawQuery = r.In.URL.RawQuery // also what Go takes for malformed
	r.Out.Host = r.In.Host
	for name, values := range r.In.Header { // which the proxy takes out
		if strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" {
			maps.Copy(r.Out.Header, http.Header{name: values})
		}
	}
}

// refuse answers in Twirp's form of an error.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "msg": message}) // to who may be gone
}
