package near_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
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
		{http.MethodPut, "/cache/org/a%2Bb%40c%3d", 5},
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
		"/cache/x/%2e%2e/y", "/cache/x%2fy", "/cache/x/a%25y", "/cache/x/a%252540", "/cache/x/%00", "/cache/x/a%20b",
	} {
		if status, said := ask(t, http.MethodPost, url+path, "", strings.NewReader("{}")); status != http.StatusNotFound || !strings.Contains(said, "only the cache and the registry are here") {
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
	if status, said := ask(t, http.MethodPut, url+"/cache/org/k", "", strings.NewReader("x")); status != http.StatusFailedDependency || said != "the cache can't be reached from this host now\n" {
		t.Errorf("a content by URL: %d %s", status, said)
	}
	if _, err := near.Open(near.Config{Server: "nowhere", Log: slog.New(slog.DiscardHandler)}); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a server that is none: %v", err)
	}
}

// TestDoorSpeaksEachProtocol: what the host says by itself each client can read.
func TestDoorSpeaksEachProtocol(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	url, _ := open(t, server.URL)
	for _, c := range []struct {
		method, path, contentType, says string
		status                          int
	}{
		{http.MethodGet, "/cache/org/k", "text/plain; charset=utf-8", "the cache can't be reached from this host now\n", 404},
		{http.MethodPut, "/cache/org/cas/0", "text/plain; charset=utf-8", "the cache can't be reached", 424},
		{http.MethodGet, "/cache/org/v8/artifacts/0", "application/json", `{"error":{"code":"not_found","message":"the cache can't`, 404},
		{http.MethodGet, "/cache/org/v1/cache/0", "text/plain", "the cache can't be reached", 404},
		{http.MethodPut, "/cache/org/v1/cache/0", "text/plain", "the cache can't be reached", 403},
		{http.MethodGet, "/_cache/entries/1", "application/xml", "<Error><Code>BlobNotFound</Code><Message>the cache can", 404},
		{http.MethodPut, "/_cache/uploads/1", "application/xml", "<Error><Code>ServerBusy</Code><Message>", 503},
		{http.MethodGet, "/_apis/artifactcache/cache", "application/json", `"message":"the cache can't`, 404},
		{http.MethodPost, "/twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry", "application/json", `"msg":"the cache can't`, 404},
		{http.MethodGet, "/healthz", "application/json", `"msg":"only the cache`, 404},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != c.status || answer.Header.Get("Content-Type") != c.contentType || !strings.Contains(string(said), c.says) {
			t.Errorf("%s %s: %s, %s, %s, %v", c.method, c.path, answer.Status, answer.Header.Get("Content-Type"), said, err)
		}
		if inXML := c.contentType == "application/xml"; inXML != (answer.Header.Get("X-Ms-Request-Id") != "" && answer.Header.Get("X-Ms-Error-Code") != "") {
			t.Errorf("%s %s: %v", c.method, c.path, answer.Header)
		}
	}
}

// TestDoorTellsWhoseFaultItIs: who sends what is no body is told so, and not that
// there is no cache.
func TestDoorTellsWhoseFaultItIs(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	t.Cleanup(server.Close)
	url, _ := open(t, server.URL)
	for path, says := range map[string]string{"/cache/org/k": "broke off", "/_cache/uploads/1": "<Code>OperationTimedOut</Code>"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", path)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if conn.Close(); err != nil || answer.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(said), says) {
			t.Errorf("%s: %s, %s, %v", path, answer.Status, said, err)
		}
	}
}
