package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// renewed is a sandbox that remembers its deadline.
type renewed struct {
	executor.Sandbox
	deadline time.Duration
}

func (r *renewed) Renew(_ context.Context, d time.Duration) error {
	r.deadline = d
	return nil
}

// TestNoProcessIsStartedWithoutALease: a host that was cut off for as long as a
// lease lasts must not start what may be running elsewhere by now.
func TestNoProcessIsStartedWithoutALease(t *testing.T) {
	t.Parallel()
	box := &renewed{}
	late := &attempt{sandbox: box, renewed: time.Now().Add(-nimbus.ShimDeadline)}
	var failed *startError
	if err := late.hold(t.Context()); !errors.As(err, &failed) || failed.reason != nimbus.ReasonHostShutdown || box.deadline != 0 {
		t.Errorf("a lease that ran out: %v, deadline %s", err, box.deadline)
	}
	held := &attempt{sandbox: box, renewed: time.Now().Add(-10 * time.Second)}
	if err := held.hold(t.Context()); err != nil || box.deadline <= 0 || box.deadline > nimbus.ShimDeadline-10*time.Second {
		t.Errorf("a lease that is held: %v, deadline %s", err, box.deadline)
	}
}
