package registry_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// loggedIn gives this process docker's login at a registry, as an agent's user has
// it. Tests that use it are not parallel.
func loggedIn(t *testing.T, address, token string) {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, address, base64.StdEncoding.EncodeToString([]byte("anybody:"+token)))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

// tinyAt pushes an image of one file to a hub, and returns its digest.
func tinyAt(t *testing.T, h *hub, repo string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/release", Mode: 0o644, Size: 4, ModTime: time.Unix(1e9, 0)})
	if err == nil {
		_, err = io.WriteString(w, "one\n")
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	to, err := name.NewTag(h.address+"/"+repo+":1", name.Insecure)
	if err == nil {
		err = remote.Write(to, img, remote.WithAuth(&authn.Basic{Username: "anybody", Password: h.client.token}))
	}
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// imagesOfHost is where a host keeps its images, with the one whose kernel serves
// all others.
func imagesOfHost(t *testing.T) image.Store {
	t.Helper()
	s := image.Store{Dir: t.TempDir()}
	d, err := s.Draft()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{d.Kernel(), d.Modules(), d.Root()} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Publish(image.Manifest{Name: nimbus.DefaultImage}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMirrorMicroVMs has hosts convert an image of another registry by way of the
// mirror: ahead of jobs, by tag, and by digest on a second host while that registry
// is away; and what is converted is there though nobody is.
func TestMirrorMicroVMs(t *testing.T) {
	testenv.Require(t, "tar2sqfs")
	c, h := mirrored(t)
	loggedIn(t, c.address, c.token)
	digest := tinyAt(t, h, "lib/tiny")
	at, err := library.NewMirrors(map[string]string{"hub.test": c.address + "/default/hub.test"})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	tell := func(what string) { told = append(told, what) }
	first := library.Config{Images: imagesOfHost(t), Mirrors: at, Refresh: time.Hour, Asked: filepath.Join(t.TempDir(), "asked.json"), Ahead: []string{"hub.test/lib/tiny:1"}}
	l := library.New(first)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if _, err := l.Open("hub.test/lib/tiny:1"); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	l.KeepImages(ctx, func() bool { return true })
	if _, err := l.Get(t.Context(), "hub.test/lib/tiny:1", "job", tell); err != nil || len(told) != 0 {
		t.Errorf("what was made ahead is not there: %v, told %q", err, told)
	}
	h.breaks(hangUp)
	for _, name := range []string{"hub.test/lib/tiny:1", "hub.test/lib/tiny@" + digest} {
		told = nil
		second := library.New(library.Config{Images: imagesOfHost(t), Mirrors: at})
		if _, err := second.Get(t.Context(), name, "job", tell); err != nil || strings.Contains(strings.Join(told, "\n"), "does not give") {
			t.Errorf("%s, whose registry is away: %v, told %q", name, err, told)
		}
	}
	alone := library.New(library.Config{Images: first.Images, Refresh: time.Hour})
	if _, err := alone.Get(t.Context(), "hub.test/lib/tiny:1", "another", tell); err != nil {
		t.Errorf("what is converted is not there without anybody: %v", err)
	}
	if n := h.count("GET blobs"); n != 2 {
		t.Errorf("three hosts have upstream asked for %d blobs", n)
	}
}

// TestMirrorContainers runs jobs in containers of an image of another registry by way
// of the mirror, also while that registry is away and the host has lost the image.
func TestMirrorContainers(t *testing.T) {
	testenv.Require(t, "root", "docker", "nft", "mke2fs")
	c, h := mirrored(t)
	parent := fmt.Sprintf("/nimbus-test-registry-%d", os.Getpid())
	daemon := testenv.DockerWith(t, "--live-restore", "--cgroup-parent", parent)
	t.Cleanup(func() {
		for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			found, _ := filepath.Glob(pattern + parent)
			for _, dir := range found {
				os.Remove(dir)
			}
		}
	})
	if err := daemon.Image("made", "here", "ENV LESSON=one"); err != nil {
		t.Fatal(err)
	}
	env := []string{"DOCKER_HOST=unix://" + daemon.Socket, "DOCKER_CONFIG=" + t.TempDir()}
	up := h.address + "/lib/app:v1"
	run(t, env, "docker", "login", "-u", "anybody", "-p", h.client.token, h.address)
	run(t, env, "docker", "tag", "made:here", up)
	run(t, env, "docker", "push", up)
	forget := func(names ...string) { run(t, env, "docker", append([]string{"rmi", "-f"}, names...)...) }
	forget("made:here", up)

	loggedIn(t, c.address, c.token)
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "../../cmd/nimbus-shim", "../../cmd/nimbus-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at, err := library.NewMirrors(map[string]string{"hub.test": c.address + "/default/hub.test"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := docker.Config{Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"), Host: "unix://" + daemon.Socket,
		Owner: fmt.Sprintf("r%d", os.Getpid()), Dir: t.TempDir(), DiskMiB: 64, Built: image.Store{Dir: t.TempDir()}, Catalog: library.Catalog{Mirrors: at},
		Ahead: []string{"hub.test/lib/app:v1"}}
	job := func() (told []string) {
		t.Helper()
		e, err := docker.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.MkdirTemp("", "nimbus-sandbox-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, err := e.Create(t.Context(), executor.Spec{ID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Dir: dir, Deadline: 5 * time.Minute,
			Class: nimbus.Class{Executor: nimbus.ExecutorDocker, Image: "hub.test/lib/app:v1", CPUs: 1, MemoryMiB: 256, Network: nimbus.NetworkNone},
			Tell:  func(what string) { told = append(told, what) }})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Destroy(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}()
		if out, _ := executortest.Do(t.Context(), t, s, "echo here"); out != "here\n" {
			t.Errorf("the job said %q", out)
		}
		return told
	}
	// Ahead of any job, then with nobody asked.
	e, err := docker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if _, err := tryRun(t, env, "docker", "inspect", "hub.test/lib/app:v1"); err == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	e.KeepImages(ctx, func() bool { return true })
	if n := h.count("GET blobs"); n == 0 {
		t.Error("nothing is fetched ahead of jobs")
	}
	if told := strings.Join(job(), "\n"); strings.Contains(told, "pulling") || strings.Contains(told, "does not give") {
		t.Errorf("the first job is told %q", told)
	}
	h.breaks(hangUp)
	forget("hub.test/lib/app:v1")
	if left, _ := tryRun(t, env, "docker", "images", "-q"); strings.TrimSpace(left) != "" {
		forget(strings.Fields(left)...)
	}
	if told := strings.Join(job(), "\n"); !strings.Contains(told, "pulling") || strings.Contains(told, "does not give") {
		t.Errorf("the image is lost and its registry away, and the job is told %q", told)
	}
}
