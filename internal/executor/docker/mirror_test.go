package docker_test

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/client"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
)

// away is a registry that nobody can reach.
const away = "registry.nimbus-test.invalid"

// TestMirror has images pulled from a mirror inside, with its login, though their
// registry can't be reached: by tag and by digest, once. What the mirror has not
// is had of the registry, which the job is told.
func TestMirror(t *testing.T) {
	cfg, d := config(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	api, err := client.New(client.WithHost("unix://" + d.Socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	mirror, closed := mirrorOf(t)
	own := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(own.Close)
	host := strings.TrimPrefix(own.URL, "http://")
	if cfg.Catalog.Mirrors, err = library.NewMirrors(map[string]string{away: mirror + "/acme/copies", host: mirror + "/acme/others"}); err != nil {
		t.Fatal(err)
	}
	cfg.Catalog.Policy = library.Policy{Allow: []string{host + "/*", away + "/*"}, Deny: []string{away + "/secret/*"}}
	cfg.Refresh = time.Nanosecond
	e := create(t, cfg)
	job := func(image string) (told []string) {
		t.Helper()
		sp := spec(t)
		sp.Class.Image, sp.Tell = image, func(what string) { told = append(told, what) }
		if out, _ := executortest.Do(ctx, t, sandbox(ctx, t, e, sp), "echo here"); out != "here\n" {
			t.Errorf("the job said %q", out)
		}
		return told
	}
	says := func(told []string, what string) (n int) {
		for _, w := range told {
			n += strings.Count(w, what)
		}
		return n
	}

	closed.Store(false)
	exact := push(ctx, t, api, imageName, mirror+"/acme/copies/acme/tools:1")
	closed.Store(true)
	if told := job(away + "/acme/tools:1"); says(told, "pulling image "+mirror+"/acme/copies/acme/tools@"+exact) == 0 || says(told, "does not give") != 0 {
		t.Errorf("by tag: told %q", told)
	}
	if _, err := api.ImageInspect(ctx, away+"/acme/tools:1"); err != nil {
		t.Errorf("by its own name: %v", err)
	}
	for _, image := range []string{away + "/acme/tools:1", away + "/acme/tools@" + exact} {
		if told := job(image); says(told, "pulling") != 0 || says(told, "does not give") != 0 {
			t.Errorf("%s again: told %q", image, told)
		}
	}
	forget(ctx, t, api, away+"/acme/tools:1", mirror+"/acme/copies/acme/tools@"+exact)
	for _, pulls := range []bool{true, false} {
		if told := job(away + "/acme/tools@" + exact); (says(told, "pulling") != 0) != pulls {
			t.Errorf("by digest: told %q", told)
		}
	}
	refused(t, e, away+"/secret/tools:1")
	refused(t, e, mirror+"/acme/copies/secret/tools:1")

	if err := d.Image("nimbus.test/tools", "1", "ENV LESSON=two"); err != nil {
		t.Fatal(err)
	}
	push(ctx, t, api, imageName, host+"/acme/tools:1")
	if told := job(host + "/acme/tools:1"); says(told, "the mirror "+mirror+" does not give image "+host+"/acme/tools:1, "+host+" is asked") != 1 || says(told, "pulling image "+host+"/acme/tools@") == 0 {
		t.Errorf("the mirror has it not: told %q", told)
	}
	// What was pulled from the registry, by whomever, is not pulled from the mirror.
	copyImage(t, host+"/acme/tools:1", mirror+"/acme/others/acme/tools:1")
	if told := job(host + "/acme/tools:1"); says(told, "looking up image "+mirror) != 1 || says(told, "pulling") != 0 || says(told, "does not give") != 0 {
		t.Errorf("the mirror has it now: told %q", told)
	}
}

// copyImage brings an image from one registry to another, with docker's login of
// this process.
func copyImage(t *testing.T, from, to string) {
	t.Helper()
	source, err := name.ParseReference(from)
	if err != nil {
		t.Fatal(err)
	}
	target, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(source)
	if err == nil {
		err = remote.Write(target, img, remote.WithAuthFromKeychain(authn.DefaultKeychain))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mirrorOf is a registry that gives who has docker's login of this process what it
// has; while it is not closed, anybody.
func mirrorOf(t *testing.T) (host string, closed *atomic.Bool) {
	t.Helper()
	closed = new(atomic.Bool)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); closed.Load() && (user != "host" || password != "word") {
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	host = strings.TrimPrefix(s.URL, "http://")
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths":{"`+host+`":{"username":"host","password":"word"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return host, closed
}

// forget takes names from an image, which goes with the last one.
func forget(ctx context.Context, t *testing.T, api *client.Client, references ...string) {
	t.Helper()
	for _, reference := range references {
		if _, err := api.ImageRemove(ctx, reference, client.ImageRemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
}

func refused(t *testing.T, e *docker.Executor, image string) {
	t.Helper()
	sp := spec(t)
	sp.Class.Image = image
	if _, err := e.Create(t.Context(), sp); nimbus.ErrorCode(err) != nimbus.CodeForbidden || !strings.Contains(err.Error(), "is not allowed on this host") {
		t.Errorf("%s: %v", image, err)
	}
}
