package cache_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// buildkitVariable names the folder with buildkitd and buildctl. They take minutes to
// build: `make test-buildkit` has them built, and `make test` goes without.
const buildkitVariable = "NIMBUS_TEST_BUILDKIT"

// buildkit are builders with `type=gha` caches.
type buildkit struct {
	*world

	v1 bool
}

// ofBuildKit are the cells of BuildKit. Its client is go-actions-cache: what matters
// here is what a build makes of the answers.
func ofBuildKit(v1 bool) map[string]cell {
	cells := map[string]cell{}
	for what, test := range map[string]func(buildkit){
		"save": buildkit.saves, "restore": buildkit.restores, "miss": buildkit.misses, "prefix": buildkit.newest, "conflict": buildkit.conflict,
		"quota": buildkit.quota, "large": buildkit.large, "concurrent": buildkit.concurrent,
	} {
		cells[what] = cell{test: func(t *testing.T) { test(buildkit{newWorld(t, limitsOf(what)), v1}) }}
	}
	return cells
}

// project has two steps, of files alone: nothing is pulled, and nothing run.
func (b buildkit) project(size int64) string {
	b.t.Helper()
	project := b.t.TempDir()
	content, _ := b.file(size)
	b.must(os.Rename(content, filepath.Join(project, "content")))
	b.write(project, map[string]string{"Dockerfile": "FROM scratch AS a\nCOPY content /one\nFROM scratch\nCOPY --from=a /one /two\n"})
	return project
}

func (b buildkit) at(c cache.Caller) string {
	if b.v1 {
		return "type=gha,scope=s1,version=1,url=" + b.url + "/,token=" + b.token(c)
	}
	return "type=gha,scope=s1,version=2,url_v2=" + b.url + "/,token=" + b.token(c)
}

func (b buildkit) exports(project string) string {
	b.t.Helper()
	return b.builds(project, "--export-cache", b.at(job())+",mode=max")
}

// imports fails unless a builder that has nothing takes so many steps of a project
// from the cache.
func (b buildkit) imports(c cache.Caller, project string, want int) {
	b.t.Helper()
	log := b.builds(project, "--import-cache", b.at(c))
	if got := strings.Count(log, " CACHED"); got != want {
		b.t.Errorf("%d steps came from the cache, want %d\n%s", got, want, log)
	}
}

// index are the entries of its index, the newest first.
func (b buildkit) index() []cache.Entry {
	b.t.Helper()
	entries, _, err := b.cache.List(b.t.Context(), nimbus.DefaultOrgID, job().Repo, cache.Filter{}, nimbus.PageRequest{})
	b.must(err)
	var index []cache.Entry
	for _, e := range entries {
		if strings.HasPrefix(e.Key, "index-") {
			index = append(index, e)
		}
	}
	return index
}

func (b buildkit) saves() {
	b.exports(b.project(3 * MiB))
	if st := b.usage(); len(b.index()) != 1 || st.Entries < 2 || st.Bytes < 3*MiB {
		b.t.Errorf("%d entries of its index, %+v", len(b.index()), st)
	}
}

func (b buildkit) restores() {
	project := b.project(3 * MiB)
	b.exports(project)
	b.imports(job(), project, 2)
}

// misses: a build goes on where there is nothing, and where that is another's.
func (b buildkit) misses() {
	project := b.project(1000)
	b.imports(job(), project, 0)
	b.exports(project)
	b.imports(job(), b.project(1000), 0)
	b.imports(job(func(c *cache.Caller) { c.Repo = "acme/other" }), project, 0)
}

// newest: its index is found by a prefix, and the newest is the one.
func (b buildkit) newest() {
	b.exports(b.project(1000))
	second := b.project(1000)
	b.exports(second)
	if n := len(b.index()); n != 2 {
		b.t.Errorf("%d entries of its index", n)
	}
	b.imports(job(), second, 2)
}

// conflict: what is there already keeps no build from its end.
func (b buildkit) conflict() {
	project := b.project(1000)
	b.exports(project)
	b.exports(project)
	b.imports(job(), project, 2)
}

// quota: a build that exports too much says why, and where it may it goes on.
func (b buildkit) quota() {
	project := b.project(3 * MiB)
	if log := b.builds(project, "--export-cache", b.at(job())+",mode=max,ignore-error=true"); !strings.Contains(log, job().Repo) {
		b.t.Errorf("it does not say why:\n%s", log)
	}
	b.imports(job(), project, 0)
}

func (b buildkit) large() {
	var blocks atomic.Int64
	b.before = func(r *http.Request) {
		if r.Method == http.MethodPatch || r.Method == http.MethodPut && r.URL.Query().Get("comp") == "block" {
			blocks.Add(1)
		}
	}
	project := b.project(70 * MiB)
	b.exports(project)
	if n := blocks.Load(); n < 2 {
		b.t.Errorf("it came in %d blocks", n)
	}
	b.imports(job(), project, 2)
}

func (b buildkit) concurrent() {
	project := b.project(3 * MiB)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() { b.exports(project) })
	}
	all.Wait()
	b.imports(job(), project, 2)
}

// builds has a project built by a builder of its own that has nothing yet, and returns what
// it said.
func (b buildkit) builds(project string, args ...string) string {
	w := b.world
	w.t.Helper()
	programs := os.Getenv(buildkitVariable)
	testenv.Require(w.t, "root", "runc", filepath.Join(programs, "buildkitd"), filepath.Join(programs, "buildctl"))
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
