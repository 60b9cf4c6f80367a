package docker_test

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/moby/moby/client"

	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
)

// TestReclaim fills the daemon with images of a registry's and has room made: what
// jobs use stays, and what the operator has; the others go, and come again.
func TestReclaim(t *testing.T) {
	cfg, d := config(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	cfg.Catalog.Policy.Allow = []string{host + "/acme/*", imageName}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	api, err := client.New(client.WithHost("unix://" + d.Socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	first, second := host+"/acme/first:1", host+"/acme/second:1"
	for lesson, name := range map[string]string{"first": first, "second": second} {
		if err := d.Image("nimbus.test/tools", "1", "ENV LESSON="+lesson); err != nil {
			t.Fatal(err)
		}
		push(ctx, t, api, imageName, name)
	}
	if err := d.Image("nimbus.test/tools", "1", "ENV LESSON=operator"); err != nil {
		t.Fatal(err)
	}
	there := func(image string) bool {
		t.Helper()
		_, err := api.ImageInspect(ctx, image)
		return err == nil
	}
	const everything = 0 // percent of the disk that may be in use
	e := create(t, cfg)
	job := func(image string) (end func()) {
		t.Helper()
		sp := spec(t)
		sp.Class.Image = image
		s, err := e.Create(ctx, sp)
		if err != nil {
			t.Fatalf("a job on %s: %v", image, err)
		}
		if out, _ := executortest.Do(ctx, t, s, "echo here"); out != "here\n" {
			t.Errorf("the job said %q", out)
		}
		return func() {
			if err := s.Destroy(ctx); err != nil {
				t.Error(err)
			}
		}
	}
	job(second)()
	job(imageName)()
	end := job(first)

	if freed, err := e.Reclaim(ctx, 100); err != nil || freed != 0 || !there(second) {
		t.Errorf("there is room enough: %d bytes, %v", freed, err)
	}
	if _, err := e.Reclaim(ctx, everything); err != nil {
		t.Error(err)
	}
	if !there(first) || there(second) || !there(imageName) {
		t.Errorf("the one in use is there: %t, the one that isn't: %t, the operator's: %t", there(first), there(second), there(imageName))
	}
	end()
	again := create(t, cfg) // what was fetched is known to the next agent
	if _, err := again.Reclaim(ctx, everything); err != nil || there(first) || !there(imageName) {
		t.Errorf("the first is there: %t, the operator's: %t, %v", there(first), there(imageName), err)
	}

	// Nothing goes while a container is being made of it.
	done := make(chan struct{})
	var reclaiming sync.WaitGroup
	reclaiming.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := e.Reclaim(ctx, everything); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 8 {
		job(first)()
	}
	close(done)
	reclaiming.Wait()
}
