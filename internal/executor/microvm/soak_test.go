package microvm_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// jobsVariable is how many jobs TestNothingIsLeft runs; make soak-microvm has
// it run 200.
const jobsVariable = "NIMBUS_SOAK_JOBS"

// TestNothingIsLeft runs jobs through the pool, one after another and then
// several at a time, and looks for what they leave: on the host, and in this
// process, which stands for the agent.
func TestNothingIsLeft(t *testing.T) {
	jobs := 20
	if n, err := strconv.Atoi(os.Getenv(jobsVariable)); err == nil {
		jobs = n
	}
	cfg := config(t)
	cfg.DiskMiB = 256
	cfg.Warm = microvm.WarmConfig{Machines: 3, MemoryMiB: 1024}
	e := microvm.New(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(jobs)*20*time.Second+2*patience)
	defer cancel()
	stop := keepWarm(ctx, t, e)
	class := spec(t).Class
	if _, err := e.EnsureSnapshot(ctx, class); err != nil {
		t.Fatal(err)
	}
	job := func(i int) error {
		sp := spec(t)
		s, err := e.Create(ctx, sp)
		if err != nil {
			return err
		}
		word := fmt.Sprintf("job %d", i)
		if out, exit := run(ctx, t, s, "echo "+word+" > file && cat file"); out != word+"\n" || exit.GetCode() != 0 {
			t.Errorf("%q, %v", out, exit)
		}
		if err := s.Destroy(ctx); err != nil {
			return err
		}
		return os.RemoveAll(sp.Dir)
	}
	half := jobs / 2
	var before usage
	for i := range half {
		if err := job(i); err != nil {
			t.Fatal(err)
		}
		if i == half/2 {
			before = now(t)
		}
	}
	const together = 4
	var group sync.WaitGroup
	for lane := range together {
		group.Go(func() {
			for i := half + lane; i < jobs; i += together {
				if err := job(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	stop()
	const slack, slackKiB = 4, 24 << 10
	grows := func(after usage) bool {
		return after.files > before.files+slack || after.goroutines > before.goroutines+slack || after.residentKiB > before.residentKiB+slackKiB
	}
	after := now(t)
	for deadline := time.Now().Add(30 * time.Second); grows(after) && time.Now().Before(deadline); after = now(t) {
		time.Sleep(100 * time.Millisecond) // what was closed may still be about to end
	}
	hits, misses := e.WarmHits()
	t.Logf("%d of %d jobs found a machine that waited; before %v, after %v", hits, hits+misses, before, after)
	if hits == 0 {
		t.Error("no job found a machine that waited")
	}
	if grows(after) {
		t.Errorf("this process grows: from %v to %v", before, after)
	}
	checkNothingIsLeft(t, cfg)
}

// usage is what this process takes.
type usage struct{ files, goroutines, residentKiB int }

func (u usage) String() string {
	return fmt.Sprintf("%d files, %d goroutines, %d KiB", u.files, u.goroutines, u.residentKiB)
}

func now(t *testing.T) usage {
	t.Helper()
	debug.FreeOSMemory()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return usage{len(files), runtime.NumGoroutine(), kib}
}

// checkNothingIsLeft looks for all that a machine has on the host, by the name
// of its owner.
func checkNothingIsLeft(t *testing.T, cfg microvm.Config) {
	t.Helper()
	slots, err := netslot.New(netslot.Config{Owner: cfg.Owner}).List()
	if err != nil || len(slots) > 0 {
		t.Errorf("network slots: %v, %v", slots, err)
	}
	groups, err := shim.Cgroups(cfg.Owner + "-microvm-")
	if err != nil || len(groups) > 0 {
		t.Errorf("cgroups: %v, %v", groups, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), "nimbus-"+cfg.Owner) || strings.Contains(string(mounts), cfg.Dir) {
		t.Errorf("mounts: %v\n%s", err, mounts)
	}
	for _, dir := range []string{"machines", "claims"} {
		if left, err := os.ReadDir(filepath.Join(cfg.Dir, dir)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
	if drafts, err := filepath.Glob(filepath.Join(cfg.Dir, "snapshots", ".draft-*")); err != nil || len(drafts) > 0 {
		t.Errorf("drafts: %v, %v", drafts, err)
	}
	// A shim leaves its exit, by which its machine is gone, and ends after that.
	for deadline := time.Now().Add(30 * time.Second); len(processesOf(t, cfg.Dir)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("processes: %v", processesOf(t, cfg.Dir))
			break
		}
	}
	if removed, err := microvm.New(cfg).Sweep(t.Context(), keeping()); err != nil || len(removed) > 0 {
		t.Errorf("the sweep found %v, %v", removed, err)
	}
}
