// Package imagetest gives tests the images of our recipes, built once per checkout.
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

// Store is where images are kept: in the checkout's .cache.
func Store(t testing.TB) image.Store {
	t.Helper()
	if dir := os.Getenv(imagesVariable); dir != "" {
		return image.Store{Dir: dir}
	}
	return image.Store{Dir: filepath.Join(checkout(t), ".cache", "images")}
}

func checkout(t testing.TB) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("find the checkout: %v", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// Runner returns a store that has the image "runner", with the stand-in for
// GitHub's runner in it. The first call takes a minute.
func Runner(t testing.TB) image.Store { return built(t, debian.Runner) }

// AIEvalRunner returns a store that has the image "ai-eval-runner". The first
// call takes minutes.
func AIEvalRunner(t testing.TB) image.Store { return built(t, debian.AIEvalRunner) }

// Docker returns a store that has the image "docker". The first call takes
// minutes.
func Docker(t testing.TB) image.Store { return built(t, debian.Docker) }

func built(t testing.TB, recipe func(image.Store, string, debian.Fetch) debian.Config) image.Store {
	t.Helper()
	store := Store(t)
	if os.Getenv(imagesVariable) != "" {
		return store
	}
	testenv.Require(t, "apt-get", "dpkg-deb", "tar2sqfs")
	program := filepath.Join(t.TempDir(), "nimbus-runner")
	// Equal sources give equal bytes, and those the image that is there.
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./cmd/nimbus-runner")
	build.Dir, build.Env = checkout(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the runner: %v\n%s", err, out)
	}
	cfg := recipe(store, program, debian.FetchCached)
	cfg.Progress = func(what string) { t.Log(what) }
	if _, err := debian.Build(t.Context(), cfg); err != nil {
		t.Fatalf("build the image: %v", err)
	}
	return store
}
