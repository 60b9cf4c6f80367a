package agent

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// sweepInterval is how often the host looks for what belongs to nobody, and
// whether what it can do has changed.
const sweepInterval = time.Minute

// runSweepLoop removes orphans at start and each minute, and tells the control
// plane when an executor has become usable or has ceased to be.
func (a *Agent) runSweepLoop(ctx context.Context) error {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	known := a.inventory(ctx)
	for {
		a.sweep(ctx)
		if now := a.inventory(ctx); !equal(known, now) {
			a.tell(ctx, now)
			known = now
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep removes what no attempt of this agent owns. An attempt that begins
// meanwhile is safe: it is known before its sandbox is made.
func (a *Agent) sweep(ctx context.Context) {
	for _, e := range a.cfg.Executors {
		var keep []string
		for _, t := range a.current() {
			keep = append(keep, t.lease().AttemptID)
		}
		removed, err := e.Sweep(ctx, keep)
		if err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "sweep", "executor", e.Name(), "error", err)
		}
		if len(removed) > 0 {
			a.log.WarnContext(ctx, "removed what belonged to nobody", "executor", e.Name(), "attempts", removed)
		}
	}
}

func (a *Agent) tell(ctx context.Context, inv nimbus.Inventory) {
	_, err := call(ctx, a.control.Hello, &nimbusv1.HelloRequest{Version: a.cfg.Version, Inventory: wire.Inventory(inv), Leases: a.leases()})
	if err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "tell the control plane what this host has", "error", err)
	}
}

func (a *Agent) leases() []*nimbusv1.Lease {
	var out []*nimbusv1.Lease
	for _, t := range a.current() {
		if t.leased() {
			out = append(out, wire.Lease(t.lease()))
		}
	}
	return out
}

func equal(a, b nimbus.Inventory) bool {
	if len(a.Executors) != len(b.Executors) {
		return false
	}
	for i := range a.Executors {
		if a.Executors[i] != b.Executors[i] {
			return false
		}
	}
	return a.Arch == b.Arch && a.CPUs == b.CPUs && a.MemoryMiB == b.MemoryMiB
}
