package bus_test

import (
	"testing"

	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/bus/bustest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(*testing.T) (a, b bus.Bus) {
		one := bus.NewInProcess()
		return one, one
	})
}
