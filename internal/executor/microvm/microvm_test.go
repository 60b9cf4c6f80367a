package microvm_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
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

// testProgram builds a program that runs in sandboxes of tests and returns its path.
func testProgram(t *testing.T, name string) string {
	t.Helper()
	return testenv.Program(t, "internal/executor/microvm/testdata/"+name)
}

// config is that of an executor with the programs and the image, built once.
func config(t *testing.T) microvm.Config {
	t.Helper()
	testenv.Require(t, "root", "qemu", "nft", "mke2fs")
	images := imagetest.Runner(t)
	return microvm.Config{
		Shim: testenv.Program(t, "cmd/nimbus-shim"), Guest: testenv.Program(t, "cmd/nimbus-guest"),
		Owner: fmt.Sprintf("t%d", os.Getpid()), Dir: t.TempDir(), Images: images, Driver: qemu.New(),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// settings are what another process makes the same executor of.
type settings struct {
	Shim, Guest, Owner, Dir, Images, Snapshots string

	Firecracker *firecracker.Config // nil: QEMU
}

func (s settings) config() microvm.Config {
	return microvm.Config{
		Shim: s.Shim, Guest: s.Guest, Owner: s.Owner, Dir: s.Dir, Images: image.Store{Dir: s.Images}, Snapshots: s.Snapshots, Driver: qemu.New(),
		Log: slog.New(slog.DiscardHandler),
	}
}

func (s settings) executor() executor.Executor {
	cfg := s.config()
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

// booted are the cases whose machines boot, because they are about making one, or
// the first of all. The others' are of a snapshot, as most jobs' are, and take a
// quarter of the time.
var booted = []string{"a job succeeds", "creation is given up", "cancelled in each phase", "sweep removes only what isn't kept", "its agent is killed while it makes it"}

// TestConformance has machines of both kinds. So have the cases of another agent,
// whose process has the settings: its machines boot.
func TestConformance(t *testing.T) {
	cfg := config(t)
	s := settings{Shim: cfg.Shim, Guest: cfg.Guest, Owner: cfg.Owner, Dir: cfg.Dir, Images: imagetest.Store(t).Dir, Snapshots: t.TempDir()}
	saved := s
	saved.Snapshots = t.TempDir()
	of := microvm.New(saved.config())
	class := executortest.Class(nimbus.ExecutorMicroVM)
	if _, err := of.EnsureSnapshot(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	executortest.Run(t, executortest.Config{
		Patience: 5 * time.Minute, Settings: s, New: func(t *testing.T) executor.Executor {
			if _, name, _ := strings.Cut(t.Name(), "/"); slices.Contains(booted, strings.ReplaceAll(name, "_", " ")) {
				return s.executor()
			}
			return saved.executor()
		},
	})
	in, err := of.Inputs(t.Context(), class)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := of.Snapshots().Open(in); err != nil {
		t.Errorf("a machine could not be made of the snapshot: %v", err) // it is removed then, and they boot
	}
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
