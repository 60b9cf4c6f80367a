package library_test

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
)

// listen is a server of the host's own network that counts who comes.
func listen(t *testing.T, h http.Handler) (host string, came *atomic.Int32) {
	t.Helper()
	came = new(atomic.Int32)
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			came.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), came
}

// refusedInside checks that a job was told why, and whom its operator can ask.
func refusedInside(t *testing.T, err error, host string) {
	t.Helper()
	if nimbus.ErrorCode(err) != nimbus.CodeForbidden || !strings.Contains(err.Error(), host+" is not at a public address") || strings.Contains(err.Error(), "dial") ||
		!strings.Contains(nimbus.ErrorHint(err), "--image-allow '"+host+"/*'") {
		t.Errorf("%v; %s", err, nimbus.ErrorHint(err))
	}
}

// TestRegistryInside: a job has nobody asked at an address of the host's own
// network, by number or by name, whom the operator has not named. Patterns that
// fit everything name nobody, and an alias only its image.
func TestRegistryInside(t *testing.T) {
	t.Parallel()
	images := store(t)
	host, came := listen(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	byName := strings.Replace(host, "127.0.0.1", "localhost", 1)
	for _, allow := range [][]string{nil, {"*"}, {"*/acme/*"}, {"127.0.0.1:*"}, {"127.0.0.*/*", "local*/*"}, {"*/" + host + "/*", "local*"}} {
		l := library.New(library.Config{
			Images: images, Policy: library.Policy{Allow: allow}, Aliases: map[string]string{"ours": host + "/acme/other:1"},
		})
		for _, registry := range []string{host, byName} {
			_, err := l.Get(t.Context(), registry+"/acme/tiny:1", "job", silent)
			if allowed := (library.Policy{Allow: allow}).Check(registry+"/acme/tiny:1") == nil; allowed {
				refusedInside(t, err, registry)
			} else if nimbus.ErrorCode(err) != nimbus.CodeForbidden {
				t.Errorf("%q: %v", allow, err)
			}
		}
	}
	if n := came.Load(); n != 0 {
		t.Fatalf("it was asked %d times", n)
	}
	push(t, host+"/acme/tiny:1", tiny(t))
	for _, cfg := range []library.Config{
		{Images: images, Policy: naming(host)},
		{Images: images, Policy: library.Policy{Allow: []string{"*", byName + "/acme/tiny*"}}},
		{Images: images, Aliases: map[string]string{"ours": host + "/acme/tiny:1"}},
	} {
		reference := host + "/acme/tiny:1"
		if len(cfg.Policy.Allow) > 1 {
			reference = byName + "/acme/tiny:1"
		}
		if cfg.Aliases != nil {
			reference = "ours"
		}
		cfg.Refresh = time.Nanosecond
		if _, err := library.New(cfg).Get(t.Context(), reference, "job", silent); err != nil {
			t.Errorf("%s: %v", reference, err)
		}
	}
	// What is here was fetched by somebody who may.
	l := library.New(library.Config{Images: images, Refresh: time.Nanosecond})
	said := ""
	if _, err := l.Get(t.Context(), host+"/acme/tiny:1", "job", func(what string) { said += what }); err != nil || !strings.Contains(said, "could not be looked up again") {
		t.Errorf("%v, said %q", err, said)
	}
}

// TestOperatorAsksAnyRegistry on the command line.
func TestOperatorAsksAnyRegistry(t *testing.T) {
	t.Parallel()
	reference, _, _ := serve(t, tiny(t))
	if _, _, err := library.New(library.Config{Images: store(t)}).Import(t.Context(), reference, "", silent); err != nil {
		t.Error(err)
	}
}

// TestRegistrySendsInside: a registry that may be asked sends nobody on to one
// that may not, by a redirect of anything or for a token.
func TestRegistrySendsInside(t *testing.T) {
	t.Parallel()
	img := tiny(t)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	secret, came := listen(t, inner)
	token, asked := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"x"}`) }))
	token = strings.Replace(token, "127.0.0.1", "localhost", 1) // the library that we use refuses numbers by itself
	var send atomic.Value
	host, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch what, _ := send.Load().(string); {
		case what == "token" && r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+token+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case what != "" && r.Method == http.MethodGet && strings.Contains(r.URL.Path, what):
			http.Redirect(w, r, "http://"+secret+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	ref, err := name.ParseReference(host + "/acme/tiny:1")
	must(t, err)
	must(t, remote.Write(ref, img))
	config, err := img.ConfigName()
	must(t, err)
	layers, err := img.Layers()
	must(t, err)
	first, err := layers[0].Digest()
	must(t, err)
	for what, elsewhere := range map[string]string{"/manifests/": secret, config.Hex: secret, first.Hex: secret, "token": token} {
		send.Store(what)
		l := library.New(library.Config{Images: store(t), Policy: naming(host)})
		_, err := l.Get(t.Context(), host+"/acme/tiny:1", "job", silent)
		refusedInside(t, err, elsewhere)
	}
	if came.Load() != 0 || asked.Load() != 0 {
		t.Fatalf("they were asked: %d, %d", came.Load(), asked.Load())
	}
	for _, what := range []string{"/manifests/", first.Hex, "token"} {
		send.Store(what)
		l := library.New(library.Config{Images: store(t), Policy: naming(host, secret, token)})
		if _, err := l.Get(t.Context(), host+"/acme/tiny:1", "job", silent); err != nil {
			t.Errorf("%s, all of them named: %v", what, err)
		}
	}
	if came.Load() == 0 || asked.Load() == 0 {
		t.Error("nobody was sent on")
	}
}

// TestRegistryInsideByProxy: what a proxy is asked for is looked at, too.
func TestRegistryInsideByProxy(t *testing.T) {
	images := store(t)
	proxy, came := listen(t, http.NotFoundHandler())
	if os.Getenv("NIMBUS_TEST_PROXIED") == "" { // the environment is read once in a process
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRegistryInsideByProxy$", "-test.v")
		cmd.Env = append(os.Environ(), "NIMBUS_TEST_PROXIED=1", "HTTPS_PROXY=http://"+proxy, "HTTP_PROXY=http://"+proxy, "NO_PROXY=")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		if came.Load() != 1 { // for the name that nobody here knows, and for no other
			t.Errorf("the proxy was asked %d times", came.Load())
		}
		return
	}
	l := library.New(library.Config{Images: images})
	_, err := l.Get(t.Context(), "10.0.0.5:5000/acme/tiny:1", "job", silent)
	refusedInside(t, err, "10.0.0.5:5000")
	if _, err = l.Get(t.Context(), "registry.nimbus-test.invalid/acme/tiny:1", "job", silent); err == nil || nimbus.ErrorCode(err) == nimbus.CodeForbidden {
		t.Error(err)
	}
}
