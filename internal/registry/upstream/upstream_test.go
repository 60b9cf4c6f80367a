package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestChallenges(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]string{
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull,push"`: {
			"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:library/alpine:pull,push"},
		`bearer realm=https://a.example/t , Service="x"`: {"realm": "https://a.example/t", "service": "x"},
		`Bearer realm="never closed`:                     {"realm": "never closed"},
		`Bearer ` + strings.Repeat("a=b,", 1000):         {"a": "b"},
		`Bearer`:                                         {},
	} {
		scheme, got := readChallenge(text)
		if scheme != "bearer" || !maps.Equal(got, want) {
			t.Errorf("%.80s is read as %s %v", text, scheme, got)
		}
	}
}

func TestBudgets(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"95;w=21600": "95 true", "0;w=21600": "0 true", "7": "7 true", "many": "0 false", "": "0 false"} {
		b, ok := budgetOf(http.Header{"Ratelimit-Remaining": {text}})
		if got := fmt.Sprint(b.Remaining, " ", ok); got != want {
			t.Errorf("%q is read as %s", text, got)
		}
	}
	c := New(Config{URL: &url.URL{Scheme: "https", Host: "a.example"}, Line: NewLine(func(string) bool { return true })})
	for text, want := range map[string]time.Duration{"30": 30 * time.Second, "999999": time.Hour, "": time.Minute, "-1": time.Minute, "soon": time.Minute,
		time.Now().Add(9000 * time.Hour).UTC().Format(http.TimeFormat): time.Hour, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat): time.Second} {
		if got := c.after(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("Retry-After %q is %s", text, got)
		}
	}
}

// double is an upstream.
func double(t *testing.T, answer http.HandlerFunc) (*Client, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	line := NewLine(func(string) bool { return true })
	t.Cleanup(line.Close)
	return New(Config{URL: u, Line: line, Login: Login{"who", "a-password"}}), s
}

// TestLogins: a token is asked for once and used until it expires; one that is
// refused is asked for anew; the login is sent to where tokens are, and not on from
// there by a redirect.
func TestLogins(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	given, asked, elsewhere := 0, 0, ""
	c, s := double(t, nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.URL.Path == "/elsewhere":
			elsewhere = r.Header.Get("Authorization")
			fmt.Fprint(w, `{"token":"stolen"}`)
		case r.URL.Path == "/token":
			if user, password, _ := r.BasicAuth(); user != "who" || password != "a-password" || r.URL.Query().Get("scope") != "repository:lib/a:pull" {
				t.Errorf("a token is asked for by %s", r.URL)
			}
			if asked++; asked == 3 {
				http.Redirect(w, r, strings.Replace(s.URL, "127.0.0.1", "localhost", 1)+"/elsewhere", http.StatusTemporaryRedirect)
				return
			}
			given++
			fmt.Fprintf(w, `{"token":"t%d","expires_in":300}`, given)
		case r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", given) || given == 0:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x",scope="repository:everything:*"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.Header().Set("Docker-Content-Digest", "sha256:x")
		}
	})
	for range 3 {
		if m, err := c.Name(t.Context(), "lib/a", "v1", ""); err != nil || m.Digest != "sha256:x" {
			t.Errorf("it is %v, %v", m, err)
		}
	}
	mu.Lock()
	if asked != 1 {
		t.Errorf("%d tokens are asked for", asked)
	}
	given++ // what was given is of no use any more
	mu.Unlock()
	if _, err := c.Name(t.Context(), "lib/a", "v1", ""); err != nil {
		t.Errorf("with a new token: %v", err)
	}
	mu.Lock()
	given++
	mu.Unlock()
	if _, err := c.Name(t.Context(), "lib/a", "v1", ""); err == nil || elsewhere != "" {
		t.Errorf("who gives tokens sends on, and the login goes along as %q: %v", elsewhere, err)
	}
}

// TestBounds: what does not end is not read to its end, and no answer of an upstream
// has an error tell an address.
func TestBounds(t *testing.T) {
	t.Parallel()
	c, _ := double(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/manifests/long"):
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, "http://127.0.0.1:1/x?signature=secret", http.StatusFound)
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	if _, err := c.Manifest(t.Context(), "lib/a", "long", 1<<20); KindOf(err) != Broken {
		t.Errorf("an endless manifest: %v", err)
	}
	_, _, err := c.Blob(t.Context(), "lib/a", "sha256:x")
	if KindOf(err) != Broken || strings.Contains(err.Error(), "signature") {
		t.Errorf("a blob from where nobody is: %v", err)
	}
	if _, err := c.Manifest(t.Context(), "lib/a", "v1", 10); KindOf(err) != Away || !strings.Contains(err.Error(), "502") {
		t.Errorf("a status of no use: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Manifest(ctx, "lib/a", "v1", 10); err == nil {
		t.Error("nobody waits, and it is asked")
	}
	var of *Error
	if !errors.As(insideError("x"), &of) || of.Kind != Inside {
		t.Error("who is inside is not told as that")
	}
}

// TestElsewhere: what fails where a registry leads to says nothing of the registry;
// what fails at itself, or where its tokens are, does. Only the registry tells how
// often it may be asked.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	_, other := double(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Ratelimit-Remaining", "0")
		switch r.URL.Path {
		case "/wants-a-login":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/tokens"`)
			w.WriteHeader(http.StatusUnauthorized)
		case "/tokens":
			asked.Add(1)
			fmt.Fprint(w, `{"token":"t"}`)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	c, s := double(t, nil)
	told := 0
	c.cfg.Budget = func(Budget) { told++ }
	c.cfg.Line.named = func(at string) bool { return at != "127.0.0.1:1" }
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, tokens, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/lib/a/manifests/"), "-")
		switch {
		case strings.HasPrefix(r.URL.Path, "/none"):
			w.Header().Set("Ratelimit-Remaining", "0")
			w.WriteHeader(http.StatusNotFound)
		case at == "fails":
			http.Redirect(w, r, other.URL+"/x?signature=secret", http.StatusFound)
		case at == "login":
			http.Redirect(w, r, other.URL+"/wants-a-login", http.StatusFound)
		case at == "inside":
			http.Redirect(w, r, "https://127.0.0.1:1/x?signature=secret", http.StatusFound)
		case at == "tokens":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+map[string]string{"away": other.URL, "none": s.URL}[tokens]+`/none"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	for what, want := range map[string]Error{"fails": {Kind: Broken}, "inside": {Kind: Inside, Elsewhere: true}, "itself": {Kind: Away}, "login": {Kind: Denied}, "tokens-away": {Kind: Away}, "tokens-none": {Kind: Broken}} {
		_, err := c.Manifest(t.Context(), "lib/a", what, 10)
		var of *Error
		if !errors.As(err, &of) || of.Kind != want.Kind || of.Elsewhere != want.Elsewhere || strings.Contains(err.Error(), "signature") {
			t.Errorf("%s: %+v", what, err)
		}
	}
	if told != 0 {
		t.Errorf("a budget of somebody else's is heard %d times", told)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("who the registry leads to says where our login goes, which went there %d times", n)
	}
}

// TestCauses: what errors say of why somebody can't be asked names no address, of ours
// least of all.
func TestCauses(t *testing.T) {
	t.Parallel()
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 53} }
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: at("10.1.1.1"), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for want, err := range map[string]error{
		"there is no such name":                           &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "a.example", Server: "10.0.0.2:53", IsNotFound: true}},
		"nobody tells in time where that is":              &net.DNSError{Err: "read udp 10.1.1.1:5->10.0.0.2:53: i/o timeout", Server: "10.0.0.2:53", IsTimeout: true},
		"it can't be learnt where that is":                &net.DNSError{Err: "dial udp 10.0.0.2:53: no route", Server: "10.0.0.2:53"},
		"dial: connect: connection refused":               &url.Error{URL: "https://a.example?signature=secret", Err: refused},
		"proxyconnect: dial: connect: connection refused": &net.OpError{Op: "proxyconnect", Net: "tcp", Err: refused},
		"read: connection reset by peer":                  &net.OpError{Op: "read", Net: "tcp", Source: at("10.1.1.1"), Addr: at("93.184.215.14"), Err: syscall.ECONNRESET},
		"EOF":                                             &url.Error{Err: io.EOF},
	} {
		if got := cause(err); got != want {
			t.Errorf("%v is told as %q, want %q", err, got, want)
		}
	}
}

// TestCheck: whom a proxy is to ask is looked up; only a name that there is not for us
// is left to the proxy.
func TestCheck(t *testing.T) {
	t.Parallel()
	line := NewLine(func(string) bool { return false })
	for name, c := range map[string]struct {
		all  []netip.Addr
		err  error
		asks bool
	}{
		"outside":    {[]netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil, true},
		"inside too": {[]netip.Addr{netip.MustParseAddr("93.184.215.14"), netip.MustParseAddr("10.0.0.1")}, nil, false},
		"unknown":    {nil, &net.DNSError{IsNotFound: true}, true},
		"no answer":  {nil, &net.DNSError{IsTimeout: true}, false},
	} {
		line.lookup = func(context.Context, string, string) ([]netip.Addr, error) { return c.all, c.err }
		if err := line.check(t.Context(), "a.example:443"); (err == nil) != c.asks {
			t.Errorf("%s: %v", name, err)
		}
	}
}
