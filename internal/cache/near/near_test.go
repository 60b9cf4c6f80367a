package near_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
)

// open starts a door to a server; stop ends it.
func open(t *testing.T, server string) (url string, stop func()) {
	t.Helper()
	d, err := near.Open(near.Config{Server: server, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + d.Addr(), cancel
}

func ask(t *testing.T, method, url, host string, body io.Reader) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(raw)
}

// TestDoorPassesOn has the server see what a client asked, under the name by which
// the client knows the door.
func TestDoorPassesOn(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Method, " ", r.Host, " ", r.URL.RequestURI(), " ", n, " ", err)
	}))
	t.Cleanup(server.Close)
	url, _ := open(t, server.URL)
	const size = 3 << 20
	got := func(method, path string, n int) string {
		_, said := ask(t, method, url+path, "gateway.nimbus.internal:9180", bytes.NewReader(make([]byte, n)))
		return said
	}
	for _, c := range []struct {
		method, path string
		n            int
	}{
		{http.MethodPost, "/twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry", 10},
		{http.MethodPut, "/_cache/uploads/17?sig=a%2Fb&comp=block&blockid=AA%3D%3D", size},
		{http.MethodGet, "/_apis/artifactcache/cache?keys=a,b&version=1", 0},
		{http.MethodDelete, "/cache/org/sccache/.sccache_check", 0},
	} {
		if want := fmt.Sprint(c.method, " gateway.nimbus.internal:9180 ", c.path, " ", c.n, " <nil>"); got(c.method, c.path, c.n) != want {
			t.Errorf("%q, want %q", got(c.method, c.path, c.n), want)
		}
	}
}

// TestDoorLeadsNowhereElse asks for what is not the cache's, in many ways.
func TestDoorLeadsNowhereElse(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the server is asked for %s", r.URL)
	}))
	t.Cleanup(server.Close)
	url, _ := open(t, server.URL)
	for _, path := range []string{
		"/", "/healthz", "/nimbus.v1.JobService/ListJobs", "/_cache", "/twirp/github.actions.results.api.v1.CacheServic/x",
		"/_cache/../healthz", "/_cache/%2e%2e/healthz", "/_cache/./x", "//_cache/x", "/_cache//x", "/_cache/%2F..%2Fhealthz", "/_cache/..", "/_cache/.", "/cache/x/../../healthz", "/_cache/..%5chealthz",
	} {
		if status, said := ask(t, http.MethodPost, url+path, "", strings.NewReader("{}")); status != http.StatusNotFound || !strings.Contains(said, `"code":"not_found"`) {
			t.Errorf("%s: %d %s", path, status, said)
		}
	}
}

// TestDoorWithoutServer lets clients go on without a cache.
func TestDoorWithoutServer(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	url, _ := open(t, server.URL)
	if status, said := ask(t, http.MethodPost, url+"/twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry", "", strings.NewReader("{}")); status != http.StatusNotFound || !strings.Contains(said, `"msg":"the cache can't be reached`) {
		t.Errorf("%d %s", status, said)
	}
	if status, _ := ask(t, http.MethodGet, url+"/_cache/entries/1?sig=x", "", nil); status != http.StatusNotFound {
		t.Errorf("a content: %d", status)
	}
	if status, _ := ask(t, http.MethodPut, url+"/_cache/uploads/1?sig=x", "", nil); status != http.StatusServiceUnavailable {
		t.Errorf("an upload: %d", status)
	}
	if _, err := near.Open(near.Config{Server: "nowhere", Log: slog.New(slog.DiscardHandler)}); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a server that is none: %v", err)
	}
}
