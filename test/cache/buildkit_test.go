//go:build buildkit

package cache_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// buildkitVariable names the folder with buildkitd and buildctl. They take minutes to
// build: this file is of `make test-buildkit`, which has them built, and not of
// `make test`.
const buildkitVariable = "NIMBUS_TEST_BUILDKIT"

// TestBuildKit: what one builder exported, another one that has nothing imports.
func TestBuildKit(t *testing.T) {
	programs := os.Getenv(buildkitVariable)
	testenv.Require(t, "root", "runc", filepath.Join(programs, "buildkitd"), filepath.Join(programs, "buildctl"))
	for version, v1 := range map[string]bool{"2": false, "1": true} {
		t.Run("version "+version, func(t *testing.T) {
			w := newWorld(t, cache.Limits{})
			project := t.TempDir()
			content, _ := w.file(3 * MiB)
			w.must(os.Rename(content, filepath.Join(project, "content")))
			// Two steps, of files alone: nothing is pulled, and nothing run.
			dockerfile := "FROM scratch AS a\nCOPY content /one\nFROM scratch\nCOPY --from=a /one /two\n"
			w.must(os.WriteFile(filepath.Join(project, "Dockerfile"), []byte(dockerfile), 0o600))
			at := func(c cache.Caller) string {
				if v1 {
					return "type=gha,scope=s1,version=1,url=" + w.url + "/,token=" + w.token(c)
				}
				return "type=gha,scope=s1,version=2,url_v2=" + w.url + "/,token=" + w.token(c)
			}
			for n, cached := range []int{0, 2} {
				log := buildkit(w, programs, project, "--import-cache", at(job()), "--export-cache", at(job())+",mode=max")
				if got := strings.Count(log, " CACHED"); got != cached {
					t.Errorf("build %d: %d steps came from the cache, want %d\n%s", n, got, cached, log)
				}
			}
			other := job(func(c *cache.Caller) { c.Repo = "acme/other" })
			if log := buildkit(w, programs, project, "--import-cache", at(other)); strings.Contains(log, " CACHED") {
				t.Errorf("another repository builds with it\n%s", log)
			}
		})
	}
}

// buildkit builds a project by a builder of its own that has nothing yet, and returns what
// it said.
func buildkit(w *world, programs, project string, args ...string) string {
	w.t.Helper()
	root, err := os.MkdirTemp("", "bk") // a socket's path is short
	w.must(err)
	defer os.RemoveAll(root)
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	address := "unix://" + root + "/s"
	server := exec.CommandContext(ctx, filepath.Join(programs, "buildkitd"), "--addr", address, "--root", root+"/root", "--oci-worker=true",
		"--containerd-worker=false", "--oci-worker-snapshotter=native", "--oci-worker-net=host")
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	server.WaitDelay = 20 * time.Second
	var said strings.Builder
	server.Stdout, server.Stderr = &said, &said
	w.must(server.Start())
	defer func() {
		cancel()
		_ = server.Wait() // it calls every end that it is told a failure
		if w.t.Failed() {
			w.t.Log(said.String())
		}
	}()
	build := exec.CommandContext(ctx, filepath.Join(programs, "buildctl"), append([]string{
		"--addr", address, "--wait", "build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + project, "--local", "dockerfile=" + project,
	}, args...)...)
	out, err := build.CombinedOutput()
	if err != nil {
		w.t.Fatalf("buildctl: %v\n%s", err, out)
	}
	return string(out)
}
