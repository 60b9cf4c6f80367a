package docker_test

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/moby/moby/client"

	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
)

// TestPull has an image fetched that is in a registry alone: by its digest, with
// its progress told, once, and anew when its tag means another. While the registry
// is away, the one that is here serves.
func TestPull(t *testing.T) {
	cfg, d := config(t)
	cfg.Refresh = time.Nanosecond
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	name := host + "/acme/tools"
	cfg.Catalog.Policy.Allow = []string{host + "/acme/*"} // no address that all may use
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	api, err := client.New(client.WithHost("unix://" + d.Socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	e := create(t, cfg)
	job := func(e *docker.Executor, image string) (lesson string, told []string) {
		t.Helper()
		sp := spec(t)
		sp.Class.Image, sp.Tell = image, func(what string) { told = append(told, what) }
		s := sandbox(ctx, t, e, sp)
		if out, _ := executortest.Do(ctx, t, s, "echo here"); out != "here\n" {
			t.Errorf("the job said %q", out)
		}
		env := s.(executor.Furnished).Env()
		return env[slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, "LESSON=") })], told
	}
	push(ctx, t, api, imageName, name+":1")
	lesson, told := job(e, name+":1")
	if lesson != "LESSON=one" || !slices.ContainsFunc(told, func(w string) bool { return strings.HasPrefix(w, "pulling image "+name+"@sha256:") }) {
		t.Errorf("the first: %s, told %q", lesson, told)
	}
	if _, told := job(e, name+":1"); slices.ContainsFunc(told, func(w string) bool { return strings.HasPrefix(w, "pulling") }) {
		t.Errorf("it is fetched again: %q", told)
	}

	if err := d.Image("nimbus.test/tools", "1", "ENV LESSON=two"); err != nil {
		t.Fatal(err)
	}
	exact := push(ctx, t, api, imageName, name+":1")
	if lesson, told := job(e, name+":1"); lesson != "LESSON=two" {
		t.Errorf("its tag means another: %s, told %q", lesson, told)
	}
	if lesson, _ := job(e, name+"@"+exact); lesson != "LESSON=two" {
		t.Errorf("by digest: %s", lesson)
	}

	server.Close()
	if lesson, told := job(create(t, cfg), name+":1"); lesson != "LESSON=two" || !strings.Contains(strings.Join(told, "\n"), "the one that is here is used") {
		t.Errorf("the registry is away: %s, told %q", lesson, told)
	}
	sp := spec(t)
	sp.Class.Image = name + ":2"
	if _, err := e.Create(ctx, sp); err == nil || !strings.Contains(err.Error(), "can't be fetched") {
		t.Errorf("one that is not here, the registry away: %v", err)
	}
}

// push brings an image of the daemon to a registry, has the daemon forget it, and
// returns its digest there.
func push(ctx context.Context, t *testing.T, api *client.Client, image, name string) (digest string) {
	t.Helper()
	if _, err := api.ImageTag(ctx, client.ImageTagOptions{Source: image, Target: name}); err != nil {
		t.Fatal(err)
	}
	r, err := api.ImagePush(ctx, name, client.ImagePushOptions{RegistryAuth: "e30="})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	said, err := io.ReadAll(r)
	if err != nil || strings.Contains(string(said), "errorDetail") {
		t.Fatalf("%v, %s", err, said)
	}
	_, rest, _ := strings.Cut(string(said), "digest: ")
	digest, _, _ = strings.Cut(rest, " ")
	for _, tag := range []string{name, image} {
		if _, err := api.ImageRemove(ctx, tag, client.ImageRemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return digest
}
