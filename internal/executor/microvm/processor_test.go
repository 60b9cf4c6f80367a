package microvm_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
)

// TestLacks: what the executor says that its jobs lack is what a job doesn't
// find, and nothing else.
func TestLacks(t *testing.T) {
	cfg := config(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e := microvm.New(cfg)
	status := e.Status(ctx)
	if !status.Available {
		t.Fatal(status)
	}
	out, _ := executortest.Do(ctx, t, create(ctx, t, e), "grep -m 1 ^flags /proc/cpuinfo; ls /dev/kvm /dev/nvidia0 2>/dev/null; exit 0")
	found := strings.Fields(out)
	for word, sign := range map[string]string{"avx2": "avx2", "avx512": "avx512f", "amx": "amx_tile", "kvm": "/dev/kvm", "cuda": "/dev/nvidia0"} {
		if has, lacks := slices.Contains(found, sign), slices.Contains(status.Lacks.Words(), word); has == lacks {
			t.Errorf("%s: the guest has it: %v; the executor says that it lacks it: %v", word, has, lacks)
		}
	}
	t.Log(status.Detail, "lacks", status.Lacks)
}
