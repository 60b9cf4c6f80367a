package microvm_test

import (
	"context"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
)

// TestLeastMemory: the least that a job may ask for is enough for its machine to
// boot, with many processors too.
func TestLeastMemory(t *testing.T) {
	cfg := config(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	asked := spec(t)
	asked.Class.MemoryMiB, asked.Class.CPUs = nimbus.MinMachineMiB, 8
	e := microvm.New(cfg)
	s, err := e.Create(ctx, asked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	out, exit := executortest.Do(ctx, t, s, "git init -q x && cd x && head -c 3M /dev/urandom > f && git add f && echo added; grep MemAvailable /proc/meminfo >&2")
	if out[:min(len(out), 6)] != "added\n" || exit.GetCode() != 0 {
		t.Errorf("%q, %v", out, exit)
	}
	t.Logf("%q", out)
}
