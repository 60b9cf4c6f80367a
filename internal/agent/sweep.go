package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// sweepInterval is how often the host looks for what belongs to nobody, and
// whether what it can do has changed.
const sweepInterval = time.Minute

// equippedPause is how long is waited for more of what has changed: a GPU may come
// and go.
const equippedPause = 2 * time.Second

// awayInterval is how often is asked whether an executor is back that could be used
// before: a daemon may only be started anew, and its jobs wait.
const awayInterval = 5 * time.Second

// runSweepLoop removes orphans at start and each minute, and tells the control
// plane when an executor has become usable or has ceased to be, when the image
// has another runner, or when other hardware is there for jobs.
func (a *Agent) runSweepLoop(ctx context.Context) error {
	ticker, again := time.NewTicker(sweepInterval), time.NewTicker(awayInterval)
	defer ticker.Stop()
	defer again.Stop()
	known, had := a.inventory(ctx), usable{}
	var orphans []string
	for due := true; ; {
		if due {
			a.sweep(ctx)
			orphans = a.sweepFolders(ctx, orphans)
			a.reclaim(ctx)
			if err := a.sealer.keep(); err != nil {
				a.log.ErrorContext(ctx, "the jobs of this host can't be gone on with when the agent starts anew", "error", err)
			}
		}
		if now := a.inventory(ctx); !equal(known, now) {
			a.tell(ctx, now)
			known = now
		}
		gone := had.gone(known.Executors)
		for waiting := true; waiting; {
			select {
			case <-ticker.C:
				due, waiting = true, false
			case <-again.C:
				due, waiting = false, !a.isBack(ctx, gone)
			case <-a.equipped:
				due, waiting = false, false
				a.pause(ctx, equippedPause)
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// usable are the executors that could be used once.
type usable map[string]bool

// gone are those that can't be used any more, by name.
func (u usable) gone(now []nimbus.ExecutorStatus) (names []string) {
	for _, s := range now {
		if s.Available {
			u[s.Name] = true
		} else if u[s.Name] {
			names = append(names, s.Name)
		}
	}
	return names
}

// isBack tells whether one of the executors that could not be used can be.
func (a *Agent) isBack(ctx context.Context, gone []string) bool {
	return slices.ContainsFunc(a.cfg.Executors, func(e executor.Executor) bool {
		return slices.Contains(gone, e.Name()) && e.Status(ctx).Available
	})
}

func (*Agent) pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// sweep removes what no attempt of this agent owns. An attempt that begins
// meanwhile is safe: it is known before its sandbox is made, and asked for after
// what there is was seen.
func (a *Agent) sweep(ctx context.Context) {
	for _, e := range a.cfg.Executors {
		a.sweepOf(ctx, e, a.attemptIDs)
	}
}

// sweepOf removes what of an executor is not kept, one sweep at a time.
func (a *Agent) sweepOf(ctx context.Context, e executor.Executor, keep func() []string) {
	a.sweeping.Lock()
	defer a.sweeping.Unlock()
	removed, err := e.Sweep(ctx, keep)
	if err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "sweep", "executor", e.Name(), "error", err)
	}
	if len(removed) > 0 {
		a.log.WarnContext(ctx, "removed what belonged to nobody", "executor", e.Name(), "attempts", removed)
	}
}

// reclaim makes room on a disk that fills, before the host has to ask for no
// more jobs.
func (a *Agent) reclaim(ctx context.Context) {
	if a.cfg.ReclaimDisk == 0 {
		return
	}
	for _, e := range a.cfg.Executors {
		r, ok := e.(executor.Reclaimer)
		if !ok {
			continue
		}
		freed, err := r.Reclaim(ctx, a.cfg.ReclaimDisk)
		if err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "make room on the disk", "executor", e.Name(), "error", err)
		}
		if freed > 0 {
			a.log.InfoContext(ctx, "made room on the disk", "executor", e.Name(), "mib", freed>>20)
		}
	}
}

func (a *Agent) attemptIDs() (ids []string) {
	for _, t := range a.current() {
		ids = append(ids, t.lease().AttemptID)
	}
	return ids
}

// sweepFolders removes the folders of attempts that are nobody's, disks and logs
// in them, and returns those that seem so now. A folder is there a moment before
// its attempt is known: it goes only if it was nobody's the last time, too.
func (a *Agent) sweepFolders(ctx context.Context, before []string) (orphans []string) {
	entries, err := os.ReadDir(a.attemptsDir())
	if err != nil {
		a.log.WarnContext(ctx, "sweep folders of attempts", "error", err)
		return nil
	}
	known := a.attemptIDs()
	for _, e := range entries {
		name := e.Name()
		switch {
		case slices.Contains(known, name):
		case !slices.Contains(before, name):
			orphans = append(orphans, name)
		default:
			a.log.WarnContext(ctx, "removed a folder that belonged to nobody", "attempt", name)
			if err := os.RemoveAll(filepath.Join(a.attemptsDir(), name)); err != nil {
				a.log.WarnContext(ctx, "sweep folders of attempts", "error", err)
			}
		}
	}
	return orphans
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
	return slices.Equal(a.GPUs, b.GPUs) && slices.Equal(a.GPUFaults, b.GPUFaults) && slices.Equal(a.Capabilities, b.Capabilities) &&
		a.Arch == b.Arch && a.CPUs == b.CPUs && a.MemoryMiB == b.MemoryMiB && a.RunnerVersion == b.RunnerVersion
}
