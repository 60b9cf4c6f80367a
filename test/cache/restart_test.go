package cache_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/intercept"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
)

// agent is what an agent has of the cache: the door to it, with the host's copies,
// and the door at which jobs of GitHub's find GitHub's service. One that is started
// anew has the same folder.
type agent struct {
	*world

	folder string
	near   *near.Door
	github *intercept.Door
	stop   func()
	// githubAsked is how often GitHub was asked for what is ours.
	trust intercept.Trust
}

// sandbox is the name by which the agent knows the one of these tests, and gateway
// what is called the host in it.
const (
	sandbox = "box-1"
	gateway = "gateway.nimbus.internal:9180"
)

func (a *agent) start() {
	a.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	a.near, err = near.Open(near.Config{Server: a.url, Dir: filepath.Join(a.folder, "cache"), Bytes: 100 * MiB, PortFile: filepath.Join(a.folder, "port"), Log: log})
	a.must(err)
	authority, err := intercept.OpenAuthority(filepath.Join(a.folder, "authority"), intercept.Names())
	a.must(err)
	a.github, err = intercept.New(intercept.Config{
		Authority: authority, Cache: "http://" + a.near.Addr(), CacheHost: gateway, Log: log,
		Forward: intercept.Forward{Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("GitHub is not there")
		}},
	})
	a.must(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.t.Context()))
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{a.near.Run, a.github.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				a.t.Error(err)
			}
		})
	}
	a.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	a.t.Cleanup(a.stop)
}

// admit lets the sandbox in, with what it trusts since it was made.
func (a *agent) admit(c cache.Caller) {
	a.github.Admit(sandbox, intercept.Session{
		Trust: a.trust.ID, Reach: func(string) bool { return true },
		Token: func(context.Context) (string, error) { return a.token(c), nil },
	})
}

// pipe is a connection from the sandbox to a door.
func (a *agent) pipe(serve func(sandbox string, conn net.Conn)) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	in, err := l.Accept()
	if err != nil {
		return nil, err
	}
	go serve(sandbox, in) // ends with the connection
	return out, nil
}

// client is one in the sandbox, for both doors.
func (a *agent) client() *http.Client {
	a.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.trust.PEM)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			if address == gateway {
				return a.pipe(a.near.Serve)
			}
			return a.pipe(a.github.Serve)
		},
	}
	a.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask sends a request, and returns the answer's status and body; an error where
// none came whole.
func (a *agent) ask(c *http.Client, method, target, body string) (int, string, error) {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), method, target, strings.NewReader(body))
	a.must(err)
	r.Header.Set("Authorization", "Bearer githubs-own")
	r.Header.Set("Content-Type", "application/json")
	answer, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(said), err
}

// call makes a call of the service, as a job of GitHub's does.
func (a *agent) call(c *http.Client, name, fields string) (map[string]any, error) {
	a.t.Helper()
	status, said, err := a.ask(c, http.MethodPost, "https://"+results()+twirpPath+name, fields)
	if err != nil {
		return nil, err
	}
	var read map[string]any
	if err := json.Unmarshal([]byte(said), &read); err != nil || status != http.StatusOK {
		a.t.Errorf("%s: %d %s", name, status, said)
	}
	return read, nil
}

// TestAgentStartsAnewAmidAJob: a job of GitHub's saves and restores while the agent
// of its host is replaced. What it asks for meanwhile fails as over a bad network;
// after that its sandbox is known by what it trusts, an upload goes on with its next
// block, and what is restored is what was saved.
func TestAgentStartsAnewAmidAJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{}, trustHost)
	a := &agent{world: w, folder: t.TempDir()}
	a.start()
	var err error
	a.trust, err = a.github.Trust()
	w.must(err)
	a.admit(job())
	runner := a.client()
	made, err := a.call(runner, "CreateCacheEntry", `{"key":"k","version":"v"}`)
	w.must(err)
	upload, _ := made["signed_upload_url"].(string)
	if !strings.HasPrefix(upload, "http://"+gateway+"/") {
		t.Fatalf("it is to be sent to %q", upload)
	}
	block := func(id, content string) (int, error) {
		status, _, err := a.ask(runner, http.MethodPut, upload+"&comp=block&blockid="+url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(id))), content)
		return status, err
	}
	first, second := strings.Repeat("1", 3*MiB), strings.Repeat("2", 3*MiB)
	if status, err := block("one", first); status != http.StatusCreated || err != nil {
		t.Fatal(status, err)
	}

	port := a.near.Addr()
	a.stop()
	if _, err := a.call(runner, "GetCacheEntryDownloadURL", `{"key":"k","version":"v"}`); err == nil {
		t.Error("a call is answered while no agent is there")
	}
	a.start()
	if a.near.Addr() != port {
		t.Errorf("the door was at %s, and is at %s", port, a.near.Addr())
	}
	if _, err := a.call(runner, "GetCacheEntryDownloadURL", `{"key":"k","version":"v"}`); err == nil {
		t.Error("a sandbox is answered that the new agent has not taken over yet")
	}
	a.admit(job())

	runner.CloseIdleConnections() // which ended with the agent: Go does not send a PUT again
	if status, err := block("two", second); status != http.StatusCreated || err != nil {
		t.Fatal(status, err)
	}
	list := "<BlockList>"
	for _, id := range []string{"one", "two"} {
		list += "<Latest>" + base64.StdEncoding.EncodeToString([]byte(id)) + "</Latest>"
	}
	if status, said, err := a.ask(runner, http.MethodPut, upload+"&comp=blocklist", list+"</BlockList>"); status != http.StatusCreated || err != nil {
		t.Fatal(status, said, err)
	}
	ended, err := a.call(runner, "FinalizeCacheEntryUpload", `{"key":"k","version":"v","size_bytes":"6291456"}`)
	if w.must(err); ended["ok"] != true {
		t.Fatalf("%v", ended)
	}
	if f := a.near.Figures(); f.Saved != 0 || f.Bytes != 0 {
		t.Errorf("half of an upload is kept: %+v", f)
	}
	restore := func() string {
		found, err := a.call(runner, "GetCacheEntryDownloadURL", `{"key":"k","version":"v"}`)
		w.must(err)
		download, _ := found["signed_download_url"].(string)
		status, said, err := a.ask(runner, http.MethodGet, download, "")
		if err != nil || status != http.StatusOK {
			t.Errorf("%d, %v", status, err)
		}
		return said
	}
	for range 2 {
		if got := restore(); got != first+second {
			t.Errorf("%d other bytes are restored", len(got))
		}
		w.wait("it is kept", func() bool { return a.near.Figures().Entries == 1 }) // a moment after all of it was sent
	}
	if f := a.near.Figures(); f.Hits != 1 || f.Misses != 1 {
		t.Errorf("%+v", f)
	}
	a.stop()
	a.start()
	a.admit(job())
	runner.CloseIdleConnections() // which ended with the agent: Go does not send a POST again
	if got := restore(); got != first+second || a.near.Figures().Hits != 1 {
		t.Errorf("%d other bytes are restored by a third agent: %+v", len(got), a.near.Figures())
	}
}

// TestAgentEndsAmidADownload: what breaks off is never taken for the whole.
func TestAgentEndsAmidADownload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{}, trustHost)
	a := &agent{world: w, folder: t.TempDir()}
	a.start()
	var err error
	a.trust, err = a.github.Trust()
	w.must(err)
	a.admit(job())
	content := strings.Repeat("0123456789abcdef", 4*MiB)
	w.as(job()).keep("large", content)
	runner := a.client()
	found, err := a.call(runner, "GetCacheEntryDownloadURL", `{"key":"large","version":"`+version+`"}`)
	w.must(err)
	answer, err := runner.Get(found["signed_download_url"].(string))
	w.must(err)
	defer answer.Body.Close()
	_, err = io.CopyN(io.Discard, answer.Body, 1)
	w.must(err)
	a.stop()
	if n, err := io.Copy(io.Discard, answer.Body); err == nil && n+1 != int64(len(content)) {
		t.Errorf("%d bytes are taken for the whole", n+1)
	} else if err == nil {
		t.Error("the download was through before the agent ended: the test shows nothing")
	}
	a.start()
	a.admit(job())
	again, err := a.call(runner, "GetCacheEntryDownloadURL", `{"key":"large","version":"`+version+`"}`)
	w.must(err)
	if status, got, err := a.ask(runner, http.MethodGet, again["signed_download_url"].(string), ""); err != nil || status != http.StatusOK || got != content {
		t.Errorf("afterwards %d, %d bytes, %v", status, len(got), err)
	}
}
