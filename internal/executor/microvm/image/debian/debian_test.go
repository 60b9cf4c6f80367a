package debian_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/images/docker"
	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestRunnerImage(t *testing.T) {
	store := imagetest.Runner(t)
	img, err := store.Open(nimbus.DefaultImage)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := elf.Open(img.Kernel())
	if err != nil {
		t.Fatalf("the kernel: %v", err)
	}
	kernel.Close()
	modules, err := os.ReadFile(img.Modules())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(modules), "virtio_ring.ko\nvirtio.ko\nvirtio_mmio.ko\n") {
		t.Error("modules aren't in the order in which they load")
	}
	if !strings.Contains(string(modules), "vmw_vsock_virtio_transport.ko\n") {
		t.Error("there are no modules for Firecracker's machines")
	}
	out, err := exec.Command("sqfs2tar", "--no-skip", img.Root()).Output()
	if err != nil {
		t.Fatal(err)
	}
	list := listTar(t, out)
	for _, name := range []string{"usr/bin/bash", "usr/bin/sh", "usr/bin/git", "usr/bin/awk", "usr/local/bin/nimbus-runner", "etc/ssl/certs/ca-certificates.crt"} {
		if !list[name] {
			t.Errorf("the image lacks %s", name)
		}
	}
	// A second build of the same recipe is the same image.
	again := imagetest.Runner(t)
	if img2, err := again.Open(nimbus.DefaultImage); err != nil || !img2.BuiltAt.Equal(img.BuiltAt) {
		t.Errorf("it was built twice: %v, %v, %v", img.BuiltAt, img2.BuiltAt, err)
	}
}

// TestBuildFromCache changes one file of an image whose packages were fetched
// before.
func TestBuildFromCache(t *testing.T) {
	testenv.Require(t, "apt-get", "dpkg-deb", "tar2sqfs")
	cfg := debian.Config{Store: image.Store{Dir: t.TempDir()}, Name: "small", Packages: []string{"bash"}}
	var recipes []string
	for _, content := range []string{"one", "two"} {
		source := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(source, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.Files = []debian.File{{Path: "/usr/local/bin/program", Source: source}}
		img, err := debian.Build(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		recipes = append(recipes, img.Recipe)
		if len(img.Packages) < 2 {
			t.Errorf("made of %v", img.Packages)
		}
	}
	if recipes[0] == recipes[1] {
		t.Error("two files, one recipe")
	}
}

// TestEachRecipeIsKnown: who looks for an image that is not here is told how to
// have it.
func TestEachRecipeIsKnown(t *testing.T) {
	for _, name := range debian.Names() {
		_, err := image.Store{Dir: t.TempDir()}.Open(name)
		if hint := nimbus.ErrorHint(err); !strings.HasPrefix(hint, "build it: nimbus images build") || name != nimbus.DefaultImage && !strings.HasSuffix(hint, " "+name) {
			t.Errorf("%s: %q", name, hint)
		}
	}
}

func TestUnknownPackage(t *testing.T) {
	testenv.Require(t, "apt-get", "dpkg-deb", "tar2sqfs")
	store := image.Store{Dir: t.TempDir()}
	_, err := debian.Build(t.Context(), debian.Config{Store: store, Name: "odd", Packages: append(runner.Packages(), "no-such-package")})
	if err == nil || !strings.Contains(err.Error(), "no-such-package") {
		t.Errorf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(store.Dir, ".draft-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func listTar(t *testing.T, raw []byte) map[string]bool {
	t.Helper()
	cmd := exec.Command("tar", "-t")
	cmd.Stdin = strings.NewReader(string(raw))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		list[strings.TrimSpace(line)] = true
	}
	return list
}

// TestDockerImage: what a daemon needs is inside, but in no machine's memory
// before it is used.
func TestDockerImage(t *testing.T) {
	img, err := imagetest.Docker(t).Open(docker.Name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sqfs2tar", "--no-skip", img.Root()).Output()
	if err != nil {
		t.Fatal(err)
	}
	list := listTar(t, out)
	dir := strings.TrimPrefix(docker.ModulesDir, "/")
	for _, name := range []string{
		"usr/sbin/dockerd", "usr/bin/docker", "usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/sbin/runc", "usr/sbin/iptables",
		"usr/local/bin/nimbus-runner", "etc/docker/daemon.json", dir + "/order", dir + "/bridge.ko", dir + "/stp.ko", dir + "/nf_nat.ko",
	} {
		if !list[name] {
			t.Errorf("the image lacks %s", name)
		}
	}
	if list[dir+"/overlay.ko"] {
		t.Error("a module of every machine is there twice")
	}
	modules, err := os.ReadFile(img.Modules())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(modules), "bridge.ko") {
		t.Error("each machine loads the modules of docker")
	}
}
