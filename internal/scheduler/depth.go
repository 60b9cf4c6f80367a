package scheduler

import (
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Depth is how many jobs of a class wait in a state.
type Depth struct {
	Class nimbus.Class
	State nimbus.State
	Jobs  int
	Age   time.Duration // since the oldest of them was admitted
}
