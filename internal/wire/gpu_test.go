package wire

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
)

// TestGPUsArrive: what a host has, and what a job used of it.
func TestGPUsArrive(t *testing.T) {
	t.Parallel()
	inv := nimbus.Inventory{
		GPUs:      []nimbus.GPUGroup{{Profile: "h100", Model: "NVIDIA H100", MemoryMiB: 81559, Count: 7}},
		GPUFaults: []nimbus.GPUFault{{GPU: "GPU 3 at 0000:81:00.0", Why: "is too hot"}},
	}
	if diff := cmp.Diff(inv, ToInventory(Inventory(inv))); diff != "" {
		t.Error(diff)
	}
	series := nimbus.UsageSeries{Start: time.Unix(1, 0).UTC(), Step: time.Second, Points: []nimbus.UsageSample{
		{At: time.Second, GPU: nimbus.GPUSample{Busy: time.Second, MemoryBytes: 5, Millijoules: 400}},
	}}
	if diff := cmp.Diff(series, ToUsageSeries(UsageSeries(series))); diff != "" {
		t.Error(diff)
	}
	totals := series.Totals()
	if diff := cmp.Diff(totals, ToUsageTotals(UsageTotals(totals))); diff != "" {
		t.Error(diff)
	}
}
