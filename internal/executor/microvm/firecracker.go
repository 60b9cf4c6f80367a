package microvm

import (
	"cmp"
	"context"
	"slices"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
)

// FirecrackerOnly is the executor for jobs that ask for Firecracker and nothing
// else. Its machines are those of the executor of microVMs; it has none where
// that uses another monitor.
type FirecrackerOnly struct {
	*Executor

	// Alone tells that the host does not offer the executor of microVMs itself,
	// which keeps machines ready for both.
	Alone bool
}

// Name is "firecracker".
func (f FirecrackerOnly) Name() string { return nimbus.ExecutorFirecracker }

// Status tells why the machines aren't Firecracker's, where they aren't.
func (f FirecrackerOnly) Status(ctx context.Context) nimbus.ExecutorStatus {
	s := f.Executor.Status(ctx)
	s.Name = f.Name()
	if !s.Available {
		return s
	}
	if err := f.checkMonitor(ctx); err != nil {
		s.Available, s.Detail, s.Hint = false, err.Error(), nimbus.ErrorHint(err)
	}
	return s
}

func (f FirecrackerOnly) checkMonitor(ctx context.Context) error {
	caps, err := f.cfg.Driver.Probe(ctx)
	switch {
	case err != nil:
		return err
	case caps.Monitor == firecracker.Name:
		return nil
	}
	return cmp.Or(caps.Instead, error(nimbus.Errorf(nimbus.CodeUnavailable, "this host's microVMs are %s's", caps.Monitor)))
}

// Create makes a machine, if it is Firecracker's.
func (f FirecrackerOnly) Create(ctx context.Context, spec executor.Spec) (executor.Sandbox, error) {
	if err := f.checkMonitor(ctx); err != nil {
		return nil, err
	}
	return f.Executor.Create(ctx, spec)
}

// Warm implements executor.Warmer.
func (f FirecrackerOnly) Warm() []nimbus.Class { return f.warmFor(f.Name()) }

// KeepWarm implements executor.Warmer. One loop is enough for all machines.
func (f FirecrackerOnly) KeepWarm(ctx context.Context, free func() nimbus.Capacity, changed func()) error {
	if !f.Alone {
		return nil
	}
	return f.Executor.KeepWarm(ctx, free, changed)
}

// warmFor are the classes of machines that wait for jobs of one executor.
func (e *Executor) warmFor(name string) []nimbus.Class {
	e.warm.mu.Lock()
	defer e.warm.mu.Unlock()
	classes := make([]nimbus.Class, len(e.warm.ready))
	for i, l := range e.warm.ready {
		classes[i] = l.class
	}
	return slices.DeleteFunc(classes, func(c nimbus.Class) bool { return c.Executor != name })
}

var (
	_ executor.Executor = FirecrackerOnly{}
	_ executor.Warmer   = FirecrackerOnly{}
)
