package agent

import (
	"context"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// named is an executor that only says what it is.
type named struct {
	executor.Executor
	name string
}

func (n named) Name() string { return n.name }

func (n named) Status(context.Context) nimbus.ExecutorStatus {
	return nimbus.ExecutorStatus{Name: n.name, Available: true}
}

// TestTheRunnersVersionIsTold, and told anew once the image has another one.
func TestTheRunnersVersionIsTold(t *testing.T) {
	t.Parallel()
	version := "2.337.0"
	a := &Agent{cfg: Config{
		Executors: []executor.Executor{named{name: nimbus.ExecutorMicroVM}, named{name: nimbus.ExecutorLocal}},
		Runners:   map[string]Runner{nimbus.ExecutorMicroVM: {Version: func() string { return version }}, nimbus.ExecutorLocal: {}},
	}}
	before := a.inventory(t.Context())
	if before.RunnerVersion != version || len(before.Executors) != 2 {
		t.Errorf("%+v", before)
	}
	if !equal(before, a.inventory(t.Context())) {
		t.Error("what did not change is told again")
	}
	version = "2.338.0"
	if after := a.inventory(t.Context()); after.RunnerVersion != version || equal(before, after) {
		t.Errorf("another runner is not told: %+v", after)
	}
}
