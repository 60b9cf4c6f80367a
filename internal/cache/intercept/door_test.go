package intercept_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache/intercept"
)

const (
	service   = "/twirp/github.actions.results.api.v1.CacheService/"
	artifacts = "/twirp/github.actions.results.api.v1.ArtifactService/"
	githubs   = "Bearer githubs-own-token"
	cacheHost = "gateway.nimbus.internal:9180"
)

// name is what the service is called.
func name() string { return intercept.Names()[0] }

// world is a door between sandboxes, a cache and GitHub.
type world struct {
	t     *testing.T
	door  *intercept.Door
	trust intercept.Trust
	roots *x509.CertPool // of a sandbox
	outer *x509.CertPool // of the host

	dials  atomic.Int64           // to GitHub
	dialed atomic.Pointer[string] // where that is
	github atomic.Pointer[http.HandlerFunc]
	cache  atomic.Pointer[http.HandlerFunc]

	mu      sync.Mutex
	toCache []string // what the cache was asked, with which token
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	w.github.Store(new(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rw.Header().Set("X-Of", "GitHub")
		fmt.Fprint(rw, r.Method, " ", r.Host, " ", r.RequestURI, " ", r.Header.Get("Authorization"), " ", len(body))
	})))
	w.cache.Store(new(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(rw, "the cache: ", string(body))
	})))
	authority, err := intercept.OpenAuthority(t.TempDir(), intercept.Names())
	w.must(err)
	cache := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.toCache = append(w.toCache, fmt.Sprint(r.Method, " ", r.Host, r.RequestURI, " ", r.Header))
		w.mu.Unlock()
		(*w.cache.Load())(rw, r)
	}))
	t.Cleanup(cache.Close)
	github, pool := w.startGitHub()
	w.outer = pool
	w.dialed.Store(&github)
	w.door, err = intercept.New(intercept.Config{
		Authority: authority, Cache: cache.URL, CacheHost: cacheHost, Log: slog.New(slog.DiscardHandler),
		Forward: intercept.Forward{Roots: pool, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != name()+":443" {
				t.Errorf("it dials %s", address)
			}
			w.dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, *w.dialed.Load())
		}},
	})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.door.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	w.trust, err = w.door.Trust()
	w.must(err)
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(w.trust.PEM)
	return w
}

// startGitHub starts a double with a certificate for the name, of an authority that
// the host alone trusts.
func (w *world) startGitHub() (address string, pool *x509.CertPool) {
	w.t.Helper()
	authority, err := intercept.OpenAuthority(w.t.TempDir(), intercept.Names())
	w.must(err)
	trust, err := authority.Trust()
	w.must(err)
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(trust.PEM)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { (*w.github.Load())(rw, r) }))
	certificate, err := intercept.Certificate(authority, trust.ID, name())
	w.must(err)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	w.t.Cleanup(s.Close)
	return s.Listener.Addr().String(), pool
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// admit lets a sandbox in that reaches everything and has a token.
func (w *world) admit(sandbox string, edit ...func(*intercept.Session)) (leave func()) {
	s := intercept.Session{
		Trust: w.trust.ID, Reach: func(string) bool { return true },
		Token: func(context.Context) (string, error) { return "nimbus-token-of-" + sandbox, nil },
	}
	for _, e := range edit {
		e(&s)
	}
	return w.door.Admit(sandbox, s)
}

// connect is a connection from a sandbox.
func (w *world) connect(sandbox string) net.Conn {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	w.must(err)
	in, err := l.Accept()
	w.must(err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		w.door.Serve(sandbox, in)
	}()
	w.t.Cleanup(func() {
		out.Close()
		<-served
	})
	w.must(out.SetDeadline(time.Now().Add(time.Minute)))
	return out
}

// client is an HTTP client in a sandbox, with what it trusts.
func (w *world) client(sandbox string, roots *x509.CertPool) *http.Client {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return w.connect(sandbox), nil },
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (w *world) request(method, path string, body io.Reader) *http.Request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "https://"+name()+path, body)
	w.must(err)
	r.Header.Set("Authorization", githubs)
	return r
}

func (w *world) ask(sandbox string, r *http.Request) (int, string) {
	w.t.Helper()
	answer, err := w.client(sandbox, w.roots).Do(r)
	w.must(err)
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	w.must(err)
	return answer.StatusCode, string(said)
}

// raw sends what no client would, and returns the answer.
func (w *world) raw(sandbox, request string) string {
	w.t.Helper()
	conn := tls.Client(w.connect(sandbox), &tls.Config{RootCAs: w.roots, ServerName: name()})
	defer conn.Close()
	_, err := io.WriteString(conn, request)
	w.must(err)
	said, err := io.ReadAll(conn)
	w.must(err)
	return string(said)
}

func (w *world) asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.toCache
	w.toCache = nil
	return out
}

// TestCallsOfTheCache go to the cache, each with the token of the sandbox that it
// came from, and without GitHub's.
func TestCallsOfTheCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.admit("a")
	w.admit("b")
	for _, sandbox := range []string{"a", "b"} {
		for _, call := range []string{"CreateCacheEntry", "FinalizeCacheEntryUpload", "GetCacheEntryDownloadURL"} {
			r := w.request(http.MethodPost, service+call, strings.NewReader(`{"key":"k"}`))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Cookie", "githubs-cookie")
			if status, said := w.ask(sandbox, r); status != http.StatusOK || said != `the cache: {"key":"k"}` {
				t.Errorf("%s: %d %s", call, status, said)
			}
			got := w.asked()
			if len(got) != 1 || !strings.HasPrefix(got[0], "POST "+cacheHost+service+call+" ") ||
				!strings.Contains(got[0], "Authorization:[Bearer nimbus-token-of-"+sandbox+"]") || strings.Contains(got[0], "githubs") {
				t.Errorf("%s: the cache was asked %q", call, got)
			}
		}
	}
	if w.dials.Load() != 0 {
		t.Error("GitHub was asked")
	}
}

// TestEverythingElseIsGitHubs, as it was sent.
func TestEverythingElseIsGitHubs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.admit("a")
	for _, uri := range []string{
		artifacts + "CreateArtifact", "/", "/_ws/ingest.sock?a=%2F&b", "/twirp/results.services.receiver.Receiver/GetStepSummarySignedBlobURL",
		service, service + "DeleteCacheEntry", service + "CreateCacheEntry/", service + "CreateCacheEntry?x=1", service + "CreateCacheEntry?",
		"/x/.." + service + "CreateCacheEntry", "/" + service + "CreateCacheEntry", service + "./CreateCacheEntry", service + "%43reateCacheEntry",
		"/twirp/github.actions.results.api.v1.CacheService%2FCreateCacheEntry", strings.ToUpper(service) + "CreateCacheEntry",
		service + "CreateCacheEntry;x", "/_cache/entries/1?sig=x", "/_apis/artifactcache/cache?keys=a", "/?a;b=%zz",
	} {
		said := w.raw("a", "POST "+uri+" HTTP/1.1\r\nHost: "+name()+"\r\nAuthorization: "+githubs+"\r\nConnection: close\r\nContent-Length: 5\r\n\r\n12345")
		if want := "\r\n\r\nPOST " + name() + " " + uri + " " + githubs + " 5"; !strings.HasPrefix(said, "HTTP/1.1 200 ") || !strings.HasSuffix(said, want) {
			t.Errorf("%q, want %q", said, want)
		}
	}
	if _, said := w.ask("a", w.request(http.MethodGet, service+"CreateCacheEntry", nil)); !strings.HasPrefix(said, "GET ") {
		t.Errorf("a GET: %s", said)
	}
	for uri, want := range map[string]string{
		"https://" + name() + service + "CreateCacheEntry": "POST " + name(), // an absolute form is GitHub's to understand
		service + "CreateCacheEntry#x":                     "POST " + name(),
	} {
		said := w.raw("a", "POST "+uri+" HTTP/1.1\r\nHost: "+name()+"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
		if !strings.Contains(said, want) && !strings.HasPrefix(said, "HTTP/1.1 400") {
			t.Errorf("%s: %s", uri, said)
		}
	}
	if got := w.asked(); len(got) != 0 {
		t.Errorf("the cache was asked %q", got)
	}
}

// TestStreamsAndUpgrades: what GitHub says comes at once, and other protocols pass.
func TestStreamsAndUpgrades(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.admit("a")
	more := make(chan struct{})
	w.github.Store(new(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			conn, buf, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			buf.Flush()
			line, _ := buf.ReadString('\n')
			fmt.Fprint(buf, "echo ", line)
			buf.Flush()
			return
		}
		fmt.Fprintln(rw, "first")
		_ = http.NewResponseController(rw).Flush()
		<-more
		fmt.Fprintln(rw, r.Header.Get("X-Forwarded-For"))
	})))
	r := w.request(http.MethodGet, "/stream", nil)
	r.Header.Set("X-Forwarded-For", "as it was")
	answer, err := w.client("a", w.roots).Do(r)
	w.must(err)
	defer answer.Body.Close()
	lines := bufio.NewReader(answer.Body)
	if line, err := lines.ReadString('\n'); line != "first\n" {
		t.Errorf("%q, %v", line, err)
	}
	close(more)
	if line, err := lines.ReadString('\n'); line != "as it was\n" {
		t.Errorf("%q, %v", line, err)
	}

	conn := tls.Client(w.connect("a"), &tls.Config{RootCAs: w.roots, ServerName: name()})
	defer conn.Close()
	fmt.Fprint(conn, "GET /_ws HTTP/1.1\r\nHost: "+name()+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	upgraded := bufio.NewReader(conn)
	switched, err := http.ReadResponse(upgraded, nil)
	w.must(err)
	fmt.Fprintln(conn, "hello")
	if line, err := upgraded.ReadString('\n'); switched.StatusCode != http.StatusSwitchingProtocols || line != "echo hello\n" {
		t.Errorf("%d %q, %v", switched.StatusCode, line, err)
	}
}

// TestWithoutACache GitHub answers, with all that the client sent.
func TestWithoutACache(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	call := bytes.Repeat([]byte("x"), 70<<10)
	answers := func(status int) {
		w.cache.Store(new(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			if status == 0 {
				panic(http.ErrAbortHandler)
			}
			rw.WriteHeader(status)
		})))
	}
	w.admit("a")
	for _, status := range []int{0, 401, 404, 500, 502, 503} {
		answers(status)
		if got, said := w.ask("a", w.request(http.MethodPost, service+"CreateCacheEntry", bytes.NewReader(call[:1000]))); got != 200 || !strings.HasSuffix(said, githubs+" 1000") {
			t.Errorf("%d of the cache: %d %s", status, got, said)
		}
	}
	for _, status := range []int{400, 403, 409, 413, 429} {
		answers(status)
		if got, _ := w.ask("a", w.request(http.MethodPost, service+"CreateCacheEntry", bytes.NewReader(call[:1000]))); got != status {
			t.Errorf("%d of the cache: %d", status, got)
		}
	}
	w.asked()
	if got, said := w.ask("a", w.request(http.MethodPost, service+"CreateCacheEntry", bytes.NewReader(call))); got != 200 || !strings.HasSuffix(said, fmt.Sprint(githubs, " ", len(call))) {
		t.Errorf("a long call: %d %s", got, said)
	}
	w.admit("unproved", func(s *intercept.Session) {
		s.Token = func(context.Context) (string, error) { return "", errors.New("it is not proved yet") }
	})
	if got, said := w.ask("unproved", w.request(http.MethodPost, service+"CreateCacheEntry", strings.NewReader("{}"))); got != 200 || !strings.HasSuffix(said, githubs+" 2") {
		t.Errorf("before the binding is proved: %d %s", got, said)
	}
	if asked := w.asked(); len(asked) != 0 {
		t.Errorf("the cache was asked %q", asked)
	}
}

// TestOnlyForWhatItIsFor: other names, other hosts on the same connection, sandboxes
// that were not let in, and those that left.
func TestOnlyForWhatItIsFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leave := w.admit("a")
	for _, other := range []string{"github.com", "sub." + name(), "actions.githubusercontent.com", ""} {
		conn := tls.Client(w.connect("a"), &tls.Config{ServerName: other, InsecureSkipVerify: true}) //nolint:gosec // it is to fail earlier
		if err := conn.HandshakeContext(t.Context()); err == nil {
			t.Errorf("it answers for %q", other)
		}
	}
	for _, host := range []string{"github.com", "127.0.0.1", "gateway.nimbus.internal:9180", name() + ":444", name() + ".", "x@" + name(), "[::1]:443"} {
		for _, path := range []string{service + "CreateCacheEntry", "/any"} {
			said := w.raw("a", "POST "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
			if !strings.HasPrefix(said, "HTTP/1.1 421 ") && !strings.HasPrefix(said, "HTTP/1.1 400 ") {
				t.Errorf("host %q: %s", host, said)
			}
		}
	}
	said := w.raw("a", "POST https://github.com/x HTTP/1.1\r\nHost: "+name()+"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	if !strings.HasPrefix(said, "HTTP/1.1 421 ") {
		t.Errorf("another host in the request line: %s", said)
	}
	if status, _ := w.ask("a", w.request(http.MethodPost, "/any", nil)); status != http.StatusOK {
		t.Errorf("itself: %d", status)
	}
	refused := func(sandbox string) {
		t.Helper()
		if _, err := w.client(sandbox, w.roots).Do(w.request(http.MethodGet, "/any", nil)); err == nil {
			t.Errorf("the sandbox %q is answered", sandbox)
		}
	}
	refused("b")
	refused("")
	open := tls.Client(w.connect("a"), &tls.Config{RootCAs: w.roots, ServerName: name()})
	fmt.Fprint(open, "GET /any HTTP/1.1\r\nHost: "+name()+"\r\n\r\n")
	kept := bufio.NewReader(open)
	answer, err := http.ReadResponse(kept, nil)
	w.must(err)
	_, err = io.Copy(io.Discard, answer.Body)
	w.must(err)
	dialled := w.dials.Load()
	leave()
	w.must(open.SetDeadline(time.Now().Add(time.Minute)))
	if _, err := kept.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection outlives its session: %v", err)
	}
	refused("a")
	if got := w.asked(); len(got) != 0 || w.dials.Load() != dialled {
		t.Errorf("the cache was asked %q, GitHub dialled %d times more", got, w.dials.Load()-dialled)
	}
}

// TestNoWayOut: a job that may not reach the service has the cache, and nothing else.
func TestNoWayOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.admit("a", func(s *intercept.Session) { s.Reach = func(string) bool { return false } })
	if status, said := w.ask("a", w.request(http.MethodPost, service+"CreateCacheEntry", strings.NewReader("{}"))); status != 200 || said != "the cache: {}" {
		t.Errorf("its cache: %d %s", status, said)
	}
	w.cache.Store(new(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusServiceUnavailable) })))
	for _, uri := range []string{service + "CreateCacheEntry", artifacts + "CreateArtifact"} {
		if status, said := w.ask("a", w.request(http.MethodPost, uri, strings.NewReader("{}"))); status != http.StatusForbidden || !strings.Contains(said, "network profile") {
			t.Errorf("%s: %d %s", uri, status, said)
		}
	}
	// Not even past the door's own certificate.
	for range 3 {
		if _, err := w.client("a", nil).Do(w.request(http.MethodGet, "/any", nil)); err == nil {
			t.Error("it is answered")
		}
	}
	if w.dials.Load() != 0 {
		t.Error("GitHub was dialled")
	}
}

// TestClientsThatDoNotTrustTheDoor get GitHub itself at their next try: those that
// say so in the handshake, and those that leave after it, like Node.
func TestClientsThatDoNotTrustTheDoor(t *testing.T) {
	t.Parallel()
	for how, refuse := range map[string]func(w *world){
		"says so": func(w *world) {
			if _, err := w.client("a", x509.NewCertPool()).Do(w.request(http.MethodGet, "/any", nil)); err == nil {
				t.Error("it trusts the door")
			}
		},
		"leaves": func(w *world) {
			conn := tls.Client(w.connect("a"), &tls.Config{ServerName: name(), InsecureSkipVerify: true}) //nolint:gosec // as Node does
			w.must(conn.HandshakeContext(t.Context()))
			w.must(conn.Close())
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.admit("a")
			w.admit("b")
			refuse(w)
			pool := w.outer
			var answer *http.Response
			var err error
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				if answer, err = w.client("a", pool).Do(w.request(http.MethodPost, artifacts+"CreateArtifact", strings.NewReader("{}"))); err == nil {
					break
				}
			}
			w.must(err)
			answer.Body.Close()
			if answer.Header.Get("X-Of") != "GitHub" {
				t.Errorf("%v", answer.Header)
			}
			if _, said := w.ask("b", w.request(http.MethodPost, service+"CreateCacheEntry", strings.NewReader("{}"))); said != "the cache: {}" {
				t.Errorf("another sandbox: %s", said)
			}
		})
	}
}

// TestGitHubIsOfTheInternet: whatever the host's resolver says of its name.
func TestGitHubIsOfTheInternet(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if conn, err := intercept.DialPublic(t.Context(), "tcp", fmt.Sprintf("localhost:%d", l.Addr().(*net.TCPAddr).Port)); err == nil {
		conn.Close()
		t.Error("it is let in to this machine")
	} else if !strings.Contains(err.Error(), "no public address") {
		t.Error(err)
	}
}

// TestGitHubsCertificateIsChecked: who stands between the host and GitHub is not
// believed.
func TestGitHubsCertificateIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.admit("a")
	impostor, _ := w.startGitHub()
	w.dialed.Store(&impostor)
	if status, said := w.ask("a", w.request(http.MethodGet, "/any", nil)); status != http.StatusBadGateway || !strings.Contains(said, "can't be reached") {
		t.Errorf("%d %s", status, said)
	}
	authority, err := intercept.OpenAuthority(t.TempDir(), intercept.Names())
	w.must(err)
	if _, err := intercept.New(intercept.Config{Authority: authority, Cache: "nowhere", CacheHost: "x"}); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a door to nowhere: %v", err)
	}
}
