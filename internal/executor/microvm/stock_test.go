package microvm_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
)

// TestNetworksLieReady gives a job that finds no machine a network that lay
// ready, and the next agent the job.
func TestNetworksLieReady(t *testing.T) {
	cfg := config(t)
	cfg.Warm = microvm.WarmConfig{Machines: 1, MemoryMiB: 1} // none waits
	e := microvm.New(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if _, err := e.EnsureSnapshot(ctx, spec(t).Class); err != nil { // a network was asked for
		t.Fatal(err)
	}
	stop := keepWarm(ctx, t, e)
	for e.NetworksReady(nimbus.NetworkNone) == 0 {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("no network lies ready")
		}
	}
	if removed, err := e.Sweep(ctx, keeping()); err != nil || len(removed) > 0 {
		t.Errorf("swept %v, %v", removed, err)
	}
	sp := spec(t)
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	if claims, err := os.ReadDir(filepath.Join(cfg.Dir, "claims")); err != nil || len(claims) != 1 {
		t.Errorf("claims: %v, %v", claims, err)
	}
	stop() // the others go
	next := microvm.New(cfg)
	if removed, err := next.Sweep(ctx, keeping(sp.ID)); err != nil || len(removed) > 0 {
		t.Errorf("swept %v, %v", removed, err)
	}
	conn, err := s.Dial(ctx) // an agent that ends hangs up
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	adopted, err := next.Adopt(ctx, sp.ID, sp.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if out, exit := run(ctx, t, adopted, "echo adopted"); out != "adopted\n" || exit.GetCode() != 0 {
		t.Errorf("%q, %v", out, exit)
	}
	if err := adopted.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	checkNothingIsLeft(t, cfg)
}

// TestNetworkThatIsGone: a network that lay ready and was taken down by somebody
// else is dropped, and the job gets another one.
func TestNetworkThatIsGone(t *testing.T) {
	cfg := config(t)
	e := microvm.New(cfg)
	sp := spec(t)
	reach := netslot.ReachOf(sp.Class)
	for _, keepFile := range []bool{false, true} {
		path, err := e.StockNetwork(t.Context(), reach)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if !keepFile {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	machine, path, err := e.SandboxNetwork(t.Context(), sp)
	if err != nil {
		t.Fatal(err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil || s.Type != unix.NSFS_MAGIC || machine != sp.ID {
		t.Errorf("%s got %s: %v", machine, path, err)
	}
	if n := e.NetworksReady(reach.Profile); n != 0 {
		t.Errorf("%d of those that are gone lie ready", n)
	}
	if _, err := e.Sweep(t.Context(), keeping()); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob("/run/netns/nimbus-" + cfg.Owner + "-*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
