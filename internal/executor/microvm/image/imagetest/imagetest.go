// Package imagetest gives tests the image "runner", built once per checkout.
package imagetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// imagesVariable names a folder in which the image was built already.
const imagesVariable = "NIMBUS_TEST_IMAGES"

// Runner returns a store that has the image "runner", with the stand-in for
// GitHub's runner in it. It is kept in the checkout's .cache; the first call
// takes a minute.
func Runner(t testing.TB) image.Store {
	t.Helper()
	if dir := os.Getenv(imagesVariable); dir != "" {
		return image.Store{Dir: dir}
	}
	testenv.Require(t, "apt-get", "dpkg-deb", "tar2sqfs")
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("find the checkout: %v", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	program := filepath.Join(t.TempDir(), "nimbus-runner")
	// Equal sources give equal bytes, and those the image that is there.
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./cmd/nimbus-runner")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the runner: %v\n%s", err, out)
	}
	cfg := debian.Runner(image.Store{Dir: filepath.Join(root, ".cache", "images")}, program, debian.FetchCached)
	cfg.Progress = func(what string) { t.Log(what) }
	_, err = debian.Build(t.Context(), cfg)
	if err != nil {
		t.Fatalf("build the image: %v", err)
	}
	return cfg.Store
}
