package agent

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// equipped is an executor that has GPUs.
type equipped struct {
	named
	has executor.Equipment
}

func (e *equipped) Equipment() executor.Equipment { return e.has }

func (e *equipped) Watch(context.Context, func()) error { return nil }

// TestGPUsThatGoAndComeBack: room is what is in service, without what jobs have;
// the host tells of the change, and of GPUs that it can't use nothing that the
// machine says by itself.
func TestGPUsThatGoAndComeBack(t *testing.T) {
	t.Parallel()
	e := &equipped{named: named{name: nimbus.ExecutorGPU}}
	a := &Agent{
		cfg: Config{Executors: []executor.Executor{e, named{name: nimbus.ExecutorDocker}}}, capacity: newCapacity(nimbus.Capacity{CPUs: 8, MemoryMiB: 8, Sandboxes: 8, GPUs: map[string]int{"a100": 9}}),
		has: nimbus.Inventory{GPUs: []nimbus.GPUGroup{{Profile: "a100", Count: 9}}, Capabilities: []string{"avx2", "cuda"}},
	}
	if inv := a.inventory(t.Context()); len(inv.GPUs) > 0 {
		t.Errorf("nobody can have them: %+v", inv.GPUs)
	}
	e.has = executor.Equipment{GPUs: []nimbus.GPUGroup{{Profile: "a100", Count: 4}}, Capabilities: []string{"cuda", "sm_80"}}
	before := a.inventory(t.Context())
	if diff := cmp.Diff([]string{"avx2", "cuda", "sm_80"}, before.Capabilities); diff != "" {
		t.Error(diff)
	}
	for _, s := range before.Executors {
		if want := map[string]nimbus.Capabilities{nimbus.ExecutorDocker: "cuda sm_80"}[s.Name]; s.Lacks != want {
			t.Errorf("jobs of %s lack %q, want %q", s.Name, s.Lacks, want)
		}
	}
	of := func() int { c, _ := a.capacity.now(); return c.GPUs["a100"] }
	r, ok := a.capacity.reserve(nimbus.Class{GPUs: 2})
	if !ok || of() != 2 {
		t.Fatalf("%v, %d are free", ok, of())
	}
	_, more := a.capacity.now()
	e.has.GPUs = []nimbus.GPUGroup{{Profile: "a100", Count: 3}}
	e.has.Faults = []nimbus.GPUFault{{GPU: "GPU 0", Why: "is too hot"}}
	after := a.inventory(t.Context())
	if equal(before, after) || len(after.GPUFaults) != 1 || of() != 1 {
		t.Errorf("told %+v, %d are free", after, of())
	}
	select {
	case <-more:
	default:
		t.Error("who polls is not told")
	}
	if _, ok := a.capacity.reserve(nimbus.Class{GPUs: 2}); ok {
		t.Error("two of one are given out")
	}
	e.has.GPUs = nil
	a.inventory(t.Context())
	if of() != -2 {
		t.Errorf("%d are free while a job has two of none", of())
	}
	a.capacity.release(r)
	if of() != 0 {
		t.Errorf("%d of none are free", of())
	}
	e.has.GPUs = []nimbus.GPUGroup{{Profile: "a100", Count: 4}}
	a.inventory(t.Context())
	if of() != 4 {
		t.Errorf("%d of four are free", of())
	}
}
