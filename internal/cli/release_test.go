package cli

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// TestNotHeld: what is not held, or not any more, can't be released.
func TestNotHeld(t *testing.T) {
	t.Parallel()
	for state, c := range map[nimbus.State]struct {
		until time.Time
		held  bool
	}{
		nimbus.StateFinished: {time.Now(), true}, nimbus.StateRunning: {time.Time{}, false}, nimbus.StateQueued: {time.Time{}, false},
	} {
		if err := notHeld(nimbus.Job{State: state, HeldUntil: c.until}); (err == nil) != c.held || err != nil && nimbus.ErrorCode(err) != nimbus.CodeConflict {
			t.Errorf("%s: %v", state, err)
		}
	}
	if err := notHeld(nimbus.Job{State: nimbus.StateFinished}); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("given up: %v", err)
	}
}
