package microvm_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/snapshot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) {
	beAgent()
	firecrackertest.Main(m)
}

// TestFirecrackerMachines has the double of Firecracker run the real guest: in a
// machine that boots, in one that is made of a snapshot, and in one that waited.
func TestFirecrackerMachines(t *testing.T) {
	testenv.Require(t, "/dev/kvm")
	cfg := config(t)
	double := firecrackertest.Double(t)
	users := t.TempDir()
	cfg.Driver = firecracker.New(firecracker.Config{
		Dir: users, Firecracker: double.Firecracker, Jailer: double.Jailer, Shim: cfg.Shim, Trial: firecracker.TrialPlain,
	})
	cfg.DiskMiB = 64
	cfg.Warm = microvm.WarmConfig{Machines: 1, MemoryMiB: 512}
	all := microvm.New(cfg)
	e := microvm.FirecrackerOnly{Executor: all}
	random := testProgram(t, "random")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	// The guest, its job and what both have read count as its monitor's memory here.
	const memoryMiB = 256
	var said []string
	hinted := 0 // machines whose page server knows where the working set is
	job := func(wait func()) {
		t.Helper()
		sp := spec(t)
		sp.Class.Executor, sp.Class.MemoryMiB = nimbus.ExecutorFirecracker, memoryMiB
		if wait != nil {
			wait()
		}
		s, err := e.Create(ctx, sp)
		if err != nil {
			t.Fatal(err)
		}
		out, exit := runCommand(ctx, t, s, "sandbox", []string{random}, "./random")
		if exit.GetCode() != 0 || out == "" || slices.Contains(said, out) {
			t.Errorf("%q, %v", out, exit)
		}
		said = append(said, out)
		checkOneUserEach(t, users, sp.Dir)
		if raw, err := os.ReadFile(filepath.Join(sp.Dir, "pages.json")); err == nil && strings.Contains(string(raw), "/"+snapshot.WorkingSetFile+`"`) {
			hinted++
		}
		again, err := e.Adopt(ctx, sp.ID, sp.Dir) // as the next agent would
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitKilled {
			t.Errorf("%+v, %v", exit, err)
		}
		if left, err := filepath.Glob(filepath.Join(sp.Dir, "jail", "*")); err != nil || len(left) > 0 {
			t.Errorf("of the jail is left: %v, %v", left, err)
		}
	}
	job(nil) // boots, and makes its class known
	class := spec(t).Class
	class.Executor, class.MemoryMiB = nimbus.ExecutorFirecracker, memoryMiB
	saved, err := all.EnsureSnapshot(ctx, class)
	if err != nil {
		t.Fatal(err)
	}
	job(nil)                                  // of the snapshot
	if err := saved.Untouched(); err != nil { // or the next one would boot
		t.Error(err)
	}
	stop := keepWarm(ctx, t, all)
	defer stop()
	job(func() {
		awaitWarm(ctx, t, e, class, 1)
		if len(all.Warm()) > 0 {
			t.Errorf("the machines that wait for Firecracker's jobs are told as %v", all.Warm())
		}
	})
	if hits, misses := all.WarmHits(); hits != 1 || misses != 2 {
		t.Errorf("%d jobs found a machine that waited, %d did not", hits, misses)
	}
	if err := saved.Untouched(); err != nil {
		t.Error(err)
	}
	if hinted != 2 {
		t.Errorf("%d of 2 machines that were restored are given a working set", hinted)
	}
	stop()
	if removed, err := all.Sweep(ctx, func() []string { return nil }); err != nil || len(removed) > 0 {
		t.Errorf("left: %v, %v", removed, err)
	}
}

// checkOneUserEach reads whose the users of jails are: one is the sandbox'.
func checkOneUserEach(t *testing.T, users, dir string) {
	t.Helper()
	owners := 0
	files, err := filepath.Glob(filepath.Join(users, "users", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(strings.Split(string(raw), "\n"), dir) {
			owners++
		}
	}
	if owners != 1 {
		t.Errorf("the machine in %s has %d users", dir, owners)
	}
}
