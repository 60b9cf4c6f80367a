//go:build buildkit

package registry_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// buildkitVariable names the folder with buildkitd and buildctl. They take minutes to
// build: this file is of `make test-buildkit`, which has them built, and not of
// `make test`.
const buildkitVariable = "NIMBUS_TEST_BUILDKIT"

// TestBuildKit: a job exports the cache of a build, by each form that BuildKit has for
// it; without anything of its own left the builder imports it, and runs no step again.
// Jobs of other repositories of the org import it, too, and may not write it.
func TestBuildKit(t *testing.T) {
	programs := os.Getenv(buildkitVariable)
	testenv.Require(t, "root", "runc", filepath.Join(programs, "buildkitd"), filepath.Join(programs, "buildctl"))
	w := newWorld(t, engines["sqlite"](t), folder(t, t.TempDir()), registry.Limits{})
	acme := w.org("acme")
	for token, repo := range map[string]string{"web": "acme/web", "other": "acme/other"} {
		w.jobs[token], w.works["att_"+token] = nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: acme.ID, Subject: "att_" + token}, registry.Work{Repo: repo}
	}
	host := strings.TrimPrefix(w.replicas[0].url, "http://")
	b := startBuildKit(w, programs, host)
	at := "ref=" + host + "/acme/acme/web/cache:%s,registry.insecure=true"
	for name, form := range map[string]struct {
		how  string // said of an export to a reference of its own; "" for inline
		kind string // the media type of what it is kept as
	}{
		"defaults":          {"mode=max", ociManifest},
		"image-manifest":    {"mode=max,oci-mediatypes=true,image-manifest=true", ociManifest},
		"index":             {"mode=max,oci-mediatypes=true,image-manifest=false", ociIndex},
		"dockers-own-types": {"mode=max,oci-mediatypes=false,image-manifest=false", "application/vnd.docker.distribution.manifest.list.v2+json"},
		"inline":            {"", ociManifest},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			ref := fmt.Sprintf(at, name)
			export := []string{"--export-cache", "type=registry," + form.how + "," + ref}
			if form.how == "" {
				image := fmt.Sprintf("type=image,name=%s/acme/acme/web/cache:%s,push=true,registry.insecure=true,oci-mediatypes=true", host, name)
				export = []string{"--export-cache", "type=inline", "--output", image}
			}
			project := b.project()
			b.prune()
			if log := b.build("web", project, export...); strings.Contains(log, " CACHED") {
				t.Errorf("the first build has a cache\n%s", log)
			}
			c := w.client("web")
			if got := c.do("HEAD", "/v2/acme/acme/web/cache/manifests/"+name, nil, "Accept", "*/*"); got.header.Get("Content-Type") != form.kind {
				t.Errorf("it is kept as %q, %d", got.header.Get("Content-Type"), got.status)
			}
			for _, job := range []string{"web", "other"} {
				b.prune()
				if log := b.build(job, project, "--import-cache", "type=registry,"+ref); strings.Count(log, " CACHED") != steps {
					t.Errorf("of %d steps the job %s has %d from the cache\n%s", steps, job, strings.Count(log, " CACHED"), log)
				}
			}
			b.prune()
			if out, err := b.tryBuild("other", project, export...); err == nil || !strings.Contains(out, "403 Forbidden") && !strings.Contains(out, "denied") {
				t.Errorf("a job of another repository exports it: %v\n%s", err, out)
			}
			b.prune()
			if log, err := b.tryBuild("nobody", project, "--import-cache", "type=registry,"+ref); err == nil && strings.Contains(log, " CACHED") {
				t.Errorf("a stranger imports it\n%s", log)
			}
		})
	}
}

// builder is a BuildKit of a test's own.
type builder struct {
	t                       *testing.T
	programs, address, host string
}

func startBuildKit(w *world, programs, host string) *builder {
	w.t.Helper()
	root, err := os.MkdirTemp("", "bk") // a socket's path is short
	w.must(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	address := "unix://" + root + "/s"
	server := exec.CommandContext(ctx, filepath.Join(programs, "buildkitd"), "--addr", address, "--root", root+"/root", "--oci-worker=true",
		"--containerd-worker=false", "--oci-worker-snapshotter=native", "--oci-worker-net=host")
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	server.WaitDelay = 20 * time.Second
	var said strings.Builder
	server.Stdout, server.Stderr = &said, &said
	w.must(server.Start())
	w.t.Cleanup(func() {
		cancel()
		_ = server.Wait() // it calls every end that it is told a failure
		w.must(os.RemoveAll(root))
		if w.t.Failed() {
			w.t.Log(said.String())
		}
	})
	return &builder{programs: programs, address: address, host: host}
}

// steps is how many of a project are run or taken from a cache: of files alone, so
// that nothing is pulled.
const steps = 2

func (b *builder) project() string {
	b.t.Helper()
	dir := b.t.TempDir()
	for name, content := range map[string][]byte{"one": fresh(3 << 20), "two": fresh(100), "Dockerfile": []byte("FROM scratch\nCOPY one /one\nCOPY two /two\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	return dir
}

// prune has the builder forget all that it built.
func (b *builder) prune() {
	b.t.Helper()
	if out, err := b.control("nobody", "prune", "--all"); err != nil {
		b.t.Fatalf("buildctl prune: %v\n%s", err, out)
	}
}

func (b *builder) build(token, project string, args ...string) string {
	b.t.Helper()
	out, err := b.tryBuild(token, project, args...)
	if err != nil {
		b.t.Fatalf("buildctl build: %v\n%s", err, out)
	}
	return out
}

func (b *builder) tryBuild(token, project string, args ...string) (string, error) {
	b.t.Helper()
	return b.control(token, append([]string{"build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + project, "--local", "dockerfile=" + project}, args...)...)
}

// control runs buildctl as somebody who has logged in by a token.
func (b *builder) control(token string, args ...string) (string, error) {
	b.t.Helper()
	home := b.t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte("anybody:" + token))
	if err := os.WriteFile(filepath.Join(home, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, b.host, auth), 0o600); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(b.programs, "buildctl"), append([]string{"--addr", b.address, "--wait"}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
