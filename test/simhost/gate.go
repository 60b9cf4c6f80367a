package simhost

import "sync"

// gate is what everything on a machine passes, so that it can be paused whole.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // closed while it is paused
	open chan struct{} // closed while it is not
}

func newGate() *gate {
	g := &gate{shut: make(chan struct{}), open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) pause() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.shut: // it is
	default:
		g.open = make(chan struct{})
		close(g.shut)
	}
}

func (g *gate) resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.shut:
		g.shut = make(chan struct{})
		close(g.open)
	default: // it is not paused
	}
}

// pausing is closed once the machine is paused.
func (g *gate) pausing() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

// pass waits while the machine is paused. It returns false when done is closed
// first.
func (g *gate) pass(done <-chan struct{}) bool {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	select {
	case <-open:
		return true
	case <-done:
		return false
	}
}
