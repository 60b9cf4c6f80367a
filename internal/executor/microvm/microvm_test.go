package microvm_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// buildStatic builds the program of a package and returns its path.
func buildStatic(t *testing.T, pkg string) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(bin, filepath.Base(pkg))
}

// config builds the programs and the image once.
func config(t *testing.T) microvm.Config {
	t.Helper()
	testenv.Require(t, "root", "qemu", "nft", "mke2fs")
	images := imagetest.Runner(t)
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "../../../cmd/nimbus-shim", "../../../cmd/nimbus-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return microvm.Config{
		Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"),
		Owner: fmt.Sprintf("t%d", os.Getpid()), Dir: t.TempDir(), Images: images, Driver: qemu.New(),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func TestConformance(t *testing.T) {
	cfg := config(t)
	executortest.Run(t, executortest.Config{
		Patience: 5 * time.Minute,
		New:      func(t *testing.T) executor.Executor { return microvm.New(cfg) },
	})
}
