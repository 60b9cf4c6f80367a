package microvm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
)

// identity prints all by which two machines could be taken for one: random
// numbers of the kernel and of a Go program, and who each says that it is.
const identity = `
	echo urandom $(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
	echo uuid $(cat /proc/sys/kernel/random/uuid)
	echo boot $(cat /proc/sys/kernel/random/boot_id)
	echo hostname $(cat /proc/sys/kernel/hostname)
	echo machine $(cat /etc/machine-id)
	echo go $(chmod +x random && ./random)
	echo clock $(date +%s)`

func parse(t *testing.T, out string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[key] = value
	}
	if len(got) != 7 {
		t.Fatalf("a machine said %q", out)
	}
	return got
}

// TestClonesDiffer makes several machines of one snapshot, some of which wait
// before their job comes.
func TestClonesDiffer(t *testing.T) {
	cfg := config(t)
	random := testProgram(t, "random")
	cfg.Warm = microvm.WarmConfig{Machines: 2, MemoryMiB: 1024}
	e := microvm.New(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	class := spec(t).Class
	if _, err := e.EnsureSnapshot(ctx, class); err != nil {
		t.Fatal(err)
	}
	in, err := e.Inputs(ctx, class)
	if err != nil {
		t.Fatal(err)
	}
	before, err := e.Snapshots().Open(in)
	if err != nil {
		t.Fatal(err)
	}

	var outs []string
	var ended []time.Time
	job := func(id string) {
		s := create(ctx, t, e)
		out, exit := runWith(ctx, t, s, id, random, identity)
		if exit.GetCode() != 0 {
			t.Fatalf("%q, %v", out, exit)
		}
		outs, ended = append(outs, out), append(ended, time.Now())
	}
	job("one")
	job("two")
	stop := keepWarm(ctx, t, e)
	awaitWarm(ctx, t, e, class, 1)
	job("three")
	awaitWarm(ctx, t, e, class, 1)
	job("four")
	stop()
	if hits, misses := e.WarmHits(); hits != 2 || misses != 2 {
		t.Errorf("%d jobs found a machine that waited, %d did not", hits, misses)
	}

	seen := map[string]string{}
	for i, out := range outs {
		got := parse(t, out)
		for key, value := range got {
			if key == "clock" {
				continue
			}
			if value == "" || seen[key+value] != "" {
				t.Errorf("%s %q twice", key, value)
			}
			seen[key+value] = key
		}
		clock, err := strconv.ParseInt(got["clock"], 10, 64)
		if off := ended[i].Sub(time.Unix(clock, 0)); err != nil || off < -2*time.Second || off > patience {
			t.Errorf("the clock is off by %v", off)
		}
	}
	if !strings.Contains(outs[0], "hostname nimbus-one\n") || !strings.Contains(outs[3], "hostname nimbus-four\n") {
		t.Errorf("host names: %q, %q", outs[0], outs[3])
	}
	if err := before.Untouched(); err != nil {
		t.Error(err)
	}
	if err := before.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// keepWarm runs the pool until stop, which waits for its end.
func keepWarm(ctx context.Context, t *testing.T, e *microvm.Executor) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		free := func() nimbus.Capacity { return nimbus.Capacity{CPUs: 8, MemoryMiB: 8192, Sandboxes: 8} }
		if err := e.KeepWarm(ctx, free, func() {}); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(stop)
	return stop
}

// awaitWarm waits until so many machines of a class are ready.
func awaitWarm(ctx context.Context, t *testing.T, e executor.Warmer, class nimbus.Class, n int) {
	t.Helper()
	for {
		warm := slices.DeleteFunc(e.Warm(), func(c nimbus.Class) bool { return c != class })
		if len(warm) >= n {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d machines wait, want %d", len(warm), n)
		}
	}
}

// copyOfFile is a program that a test may change.
func copyOfFile(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(to, raw, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return to
}

// TestSnapshotIsMadeAgain changes the guest: what was saved with the old one is
// refused, and replaced by itself.
func TestSnapshotIsMadeAgain(t *testing.T) {
	cfg := config(t)
	cfg.Guest = copyOfFile(t, cfg.Guest)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	class := spec(t).Class
	first, err := microvm.New(cfg).EnsureSnapshot(ctx, class)
	if err != nil {
		t.Fatal(err)
	}
	guest, err := os.OpenFile(cfg.Guest, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guest.WriteString("\n"); err != nil { // behind the program: it does the same
		t.Fatal(err)
	}
	guest.Close()
	e := microvm.New(cfg)
	in, err := e.Inputs(ctx, class)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Snapshots().Open(in); nimbus.ErrorCode(err) != nimbus.CodeConflict || !strings.Contains(err.Error(), "guest and modules") {
		t.Errorf("got %v", err)
	}
	second, err := e.EnsureSnapshot(ctx, class)
	if err != nil || second.Initrd == first.Initrd {
		t.Fatalf("%v; %+v", err, second)
	}
	s := create(ctx, t, e)
	if out, exit := run(ctx, t, s, "echo alive"); out != "alive\n" || exit.GetCode() != 0 {
		t.Errorf("%q, %v", out, exit)
	}
}

// unable is a driver that makes no machine of a snapshot any more.
type unable struct {
	*qemu.Driver

	now bool
}

func (u *unable) Restore(ctx context.Context, m vmm.Machine) error {
	if u.now {
		return errors.New("no machine comes of this")
	}
	return u.Driver.Restore(ctx, m)
}

// TestUselessSnapshotIsRemoved: a snapshot that fits by all that is known, and
// of which no machine comes, is not tried for ever.
func TestUselessSnapshotIsRemoved(t *testing.T) {
	cfg := config(t)
	driver := &unable{Driver: qemu.New()}
	cfg.Driver = driver
	e := microvm.New(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	class := spec(t).Class
	if _, err := e.EnsureSnapshot(ctx, class); err != nil {
		t.Fatal(err)
	}
	driver.now = true
	s := create(ctx, t, e)
	if out, exit := run(ctx, t, s, "echo booted"); out != "booted\n" || exit.GetCode() != 0 {
		t.Errorf("%q, %v", out, exit)
	}
	if d, ok := s.(executor.Dated); !ok || d.Origin() != nimbus.OriginCold {
		t.Error("the machine did not boot")
	}
	in, err := e.Inputs(ctx, class)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Snapshots().Open(in); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("the snapshot: %v", err)
	}
}

// TestWaitingMachinesAreClaimedOnce adopts a machine that waited as the next
// agent would, and sweeps around it.
func TestWaitingMachinesAreClaimedOnce(t *testing.T) {
	cfg := config(t)
	cfg.Warm = microvm.WarmConfig{Machines: 1, MemoryMiB: 1024}
	e := microvm.New(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	sp := spec(t)
	job, err := e.Create(ctx, sp) // boots, and tells the pool of its class
	if err != nil {
		t.Fatal(err)
	}
	defer job.Destroy(context.Background())
	stop := keepWarm(ctx, t, e)
	awaitWarm(ctx, t, e, sp.Class, 1)
	if removed, err := e.Sweep(ctx, keeping(sp.ID)); err != nil || len(removed) > 0 {
		t.Errorf("swept %v, %v", removed, err)
	}
	second := spec(t)
	s, err := e.Create(ctx, second)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	stop()
	if d, ok := s.(executor.Dated); !ok || d.Origin() != nimbus.OriginWarm {
		t.Error("the machine did not wait")
	}
	if err := s.Renew(ctx, patience); err != nil {
		t.Errorf("renew one that waited: %v", err)
	}
	conn, err := s.Dial(ctx) // an agent that ends hangs up
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if hits, _ := e.WarmHits(); hits != 1 {
		t.Errorf("%d hits", hits)
	}
	next := microvm.New(cfg)
	if removed, err := next.Sweep(ctx, keeping(sp.ID, second.ID)); err != nil || len(removed) > 0 {
		t.Errorf("swept %v, %v", removed, err)
	}
	adopted, err := next.Adopt(ctx, second.ID, second.Dir)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is left of its rehearsal, nor of the name that it had.
	out, exit := run(ctx, t, adopted, "echo adopted; ls -A; cat /etc/hostname; grep -c waits /etc/hosts; cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sh$'")
	if out != "adopted\nnimbus-sandbox\n0\n0\n" {
		t.Errorf("%q, %v", out, exit)
	}
	if exit, err := func() (executor.Exit, error) {
		if err := adopted.Destroy(ctx); err != nil {
			return executor.Exit{}, err
		}
		return s.Wait(ctx)
	}(); err != nil || exit.Cause != executor.ExitKilled {
		t.Errorf("%+v, %v", exit, err)
	}
	for _, dir := range []string{"machines", "claims"} {
		if left, err := os.ReadDir(filepath.Join(cfg.Dir, dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}
