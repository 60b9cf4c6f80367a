package cache_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
)

// TestURLsBeginWithTheHost: where it is trusted, and is one.
func TestURLsBeginWithTheHost(t *testing.T) {
	t.Parallel()
	trusting := newWorld(t, cache.Limits{}, func(cfg *actions.Config) { cfg.PublicURL, cfg.TrustHost = "", true })
	other := newWorld(t, cache.Limits{})
	ask := func(w *world, key, host string) answer {
		me := w.as(job())
		return me.send("POST", w.url+twirpPath+"CreateCacheEntry", strings.NewReader(`{"key":"`+key+`","version":"v"}`),
			"Authorization", "Bearer "+me.token, "Content-Type", "application/json", "Host", host)
	}
	for host, want := range map[string]string{
		"cache.example": "http://cache.example/_cache/uploads/", "cache.example:8080": "http://cache.example:8080/_cache/uploads/", "[::1]:80": "http://[::1]:80/_cache/uploads/",
	} {
		if a := ask(trusting, host, host); !strings.HasPrefix(a.text("signed_upload_url"), want) {
			t.Errorf("%s: %d %s", host, a.status, a.body)
		}
		if a := ask(other, host, host); !strings.HasPrefix(a.text("signed_upload_url"), other.url+"/_cache/uploads/") {
			t.Errorf("%s where it is not trusted: %d %s", host, a.status, a.body)
		}
	}
	for _, host := range []string{"user@cache.example", "cache.example:x", "a'b", "$(id)", "a,b"} {
		if a := ask(trusting, host, host); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", host, a.status, a.body)
		}
	}
}

// TestWhoIsNotAdmitted: a token that is good may be that of a job that has ended.
func TestWhoIsNotAdmitted(t *testing.T) {
	t.Parallel()
	ended := false
	w := newWorld(t, cache.Limits{}, func(cfg *actions.Config) {
		cfg.Admit = func(_ context.Context, c cache.Caller) error {
			if ended && c.JobID == "job_1" {
				return nimbus.Errorf(nimbus.CodeUnauthenticated, "the job has ended")
			}
			return nil
		}
	})
	me := w.as(job())
	me.keep("k", "content")
	get, put := me.find("k").text("signed_download_url"), me.uploadURL("open")
	me.putBlob(put, "half")
	ended = true
	nobody := raw{w, ""}
	w.refused("a URL to read", nobody.send("GET", get, nil), http.StatusForbidden)
	w.refused("a URL to write", me.putBlob(put, "the other half"), http.StatusForbidden)
	w.refused("a URL to write, as if for no job", me.putBlob(strings.Replace(put, "job=job_1", "", 1), "the other half"), http.StatusForbidden)
	w.refused("a URL to write, for a job that runs", me.putBlob(strings.Replace(put, "job=job_1", "job=job_2", 1), "the other half"), http.StatusForbidden)
	w.refused("a look-up", me.find("k"), http.StatusUnauthorized)
	w.refused("an upload", me.create("l"), http.StatusUnauthorized)
	w.refused("a look-up in version 1", me.send("GET", w.url+"/_apis/artifactcache/cache?keys=k&version="+version, nil, "Authorization", "Bearer "+me.token), http.StatusUnauthorized)
	w.as(job(func(c *cache.Caller) { c.JobID = "job_2" })).holds("k", "content")
}

func TestConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	for what, cfg := range map[string]actions.Config{
		"without a cache":  {Keys: w.keys, PublicURL: "https://nimbus.example"},
		"without keys":     {Cache: w.cache, PublicURL: "https://nimbus.example"},
		"without a URL":    {Cache: w.cache, Keys: w.keys},
		"with a path":      {Cache: w.cache, Keys: w.keys, PublicURL: "https://nimbus.example/nimbus"},
		"with a user":      {Cache: w.cache, Keys: w.keys, PublicURL: "https://me@nimbus.example"},
		"with a query":     {Cache: w.cache, Keys: w.keys, PublicURL: "https://nimbus.example?a=b"},
		"without a scheme": {Cache: w.cache, Keys: w.keys, PublicURL: "nimbus.example"},
		"of files":         {Cache: w.cache, Keys: w.keys, PublicURL: "file:///etc"},
		"of two minds":     {Cache: w.cache, Keys: w.keys, PublicURL: "https://nimbus.example", TrustHost: true},
	} {
		if _, err := actions.New(cfg); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, good := range []string{"https://nimbus.example", "http://127.0.0.1:8080/", "http://[::1]:8080"} {
		if _, err := actions.New(actions.Config{Cache: w.cache, Keys: w.keys, PublicURL: good}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}
