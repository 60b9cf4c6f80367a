package microvm

import "github.com/nimbus-ci/nimbus"

// NetworksReady is how many networks of a profile lie ready.
func (e *Executor) NetworksReady(p nimbus.NetworkProfile) int {
	e.stock.mu.Lock()
	defer e.stock.mu.Unlock()
	return len(e.stock.ready[p])
}
