package microvm

import (
	"context"
	"errors"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
)

// NetworksReady is how many networks of a profile lie ready.
func (e *Executor) NetworksReady(p nimbus.NetworkProfile) int {
	e.stock.mu.Lock()
	defer e.stock.mu.Unlock()
	return len(e.stock.ready[p])
}

// StockNetwork lays a network ready and returns its namespace.
func (e *Executor) StockNetwork(ctx context.Context, r netslot.Reach) (path string, err error) {
	e.stock.mu.Lock()
	e.stock.seen = map[nimbus.NetworkProfile]bool{r.Profile: true}
	e.stock.mu.Unlock()
	if !e.fillStock(ctx) {
		return "", errors.New("no network was made")
	}
	e.stock.mu.Lock()
	defer e.stock.mu.Unlock()
	ready := e.stock.ready[r.Profile]
	return ready[len(ready)-1].slot.Netns, nil
}

// SandboxNetwork is the machine and the namespace that a sandbox gets.
func (e *Executor) SandboxNetwork(ctx context.Context, spec executor.Spec) (machine, path string, err error) {
	machine, slot, err := e.sandboxNetwork(ctx, spec)
	return machine, slot.Netns, err
}
