package host_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/host"
)

func TestExitCode(t *testing.T) {
	t.Parallel()
	removed := nimbus.Errorf(nimbus.CodeUnauthenticated, "this host was removed")
	for err, want := range map[error]int{
		nil: 0, errors.New("the disk is full"): 1, nimbus.Errorf(nimbus.CodeUnavailable, "away"): 1,
		removed: host.ExitUnknown, fmt.Errorf("open a session: %w", removed): host.ExitUnknown,
	} {
		if got := host.ExitCode(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}
