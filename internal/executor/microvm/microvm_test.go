package microvm_test

import (
	"encoding/json"
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
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest"
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

// settings are what another process makes the same executor of.
type settings struct {
	Shim, Guest, Owner, Dir, Images string

	Firecracker *firecracker.Config // nil: QEMU
}

func (s settings) executor() executor.Executor {
	cfg := microvm.Config{
		Shim: s.Shim, Guest: s.Guest, Owner: s.Owner, Dir: s.Dir, Images: image.Store{Dir: s.Images}, Driver: qemu.New(), Log: slog.New(slog.DiscardHandler),
	}
	if s.Firecracker == nil {
		return microvm.New(cfg)
	}
	cfg.Driver = firecracker.New(*s.Firecracker)
	return microvm.FirecrackerOnly{Executor: microvm.New(cfg)}
}

// beAgent is for the process of another agent, if this is one.
func beAgent() {
	executortest.Main(func(raw []byte) (executor.Executor, error) {
		var s settings
		err := json.Unmarshal(raw, &s) //nolint:musttag // between two processes of this test
		return s.executor(), err
	})
}

func TestConformance(t *testing.T) {
	cfg := config(t)
	s := settings{Shim: cfg.Shim, Guest: cfg.Guest, Owner: cfg.Owner, Dir: cfg.Dir, Images: imagetest.Store(t).Dir}
	executortest.Run(t, executortest.Config{
		Patience: 5 * time.Minute, Settings: s, New: func(*testing.T) executor.Executor { return s.executor() },
	})
}

// TestConformanceFirecracker is the same over the double of Firecracker, whose
// guest is the real one, below the host's kernel in place of one of its own.
func TestConformanceFirecracker(t *testing.T) {
	testenv.Require(t, "/dev/kvm", "/bin/busybox")
	cfg, double := config(t), firecrackertest.Double(t)
	s := settings{
		Shim: cfg.Shim, Guest: cfg.Guest, Owner: cfg.Owner, Dir: cfg.Dir, Images: imagetest.Store(t).Dir,
		Firecracker: &firecracker.Config{
			Dir: t.TempDir(), Firecracker: double.Firecracker, Jailer: double.Jailer, Shim: cfg.Shim, Trial: firecracker.TrialPlain,
		},
	}
	const kernel = "it takes a kernel of the machine's own, which the double has not"
	executortest.Run(t, executortest.Config{
		Patience: 2 * time.Minute, Settings: s, New: func(*testing.T) executor.Executor { return s.executor() },
		Without: map[string]string{"two sandboxes at once are apart": kernel, "its guest is killed": kernel, "want of memory is told": kernel},
	})
}
