package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// testHosts: what a host has and has free is what it said last, whoever writes.
func testHosts(t *testing.T, b *books) {
	h := nimbus.Host{Name: "host", Version: "v1", State: nimbus.HostReady,
		Inventory: nimbus.Inventory{Arch: "amd64", CPUs: 8, MemoryMiB: 1024, CPUModel: "model", Sandboxes: 4, Capabilities: []string{"kvm"},
			GPUs: []nimbus.GPUGroup{{Profile: "h100", Model: "NVIDIA H100", MemoryMiB: 80 << 10, Count: 2}}}}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		h.ID, h.JoinedAt, h.SeenAt = nimbus.NewID(nimbus.PrefixHost, tx.Now()), tx.Now(), tx.Now()
		return tx.InsertHost(ctx, h)
	})
	serial := 0
	touch := func(free *nimbus.Capacity) {
		t.Helper()
		serial++
		if err := b.OffsetClock(t.Context(), time.Duration(serial)*time.Second); err != nil {
			t.Fatal(err)
		}
		b.update(func(ctx context.Context, tx scheduler.Tx) error {
			h.SeenAt = tx.Now()
			return tx.TouchHosts(ctx, map[string]*nimbus.Capacity{h.ID: free})
		})
	}
	expect := func(what string) {
		t.Helper()
		err := b.View(t.Context(), func(r scheduler.Reader) error {
			got, err := r.Host(t.Context(), h.ID)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(h, got.Host); diff != "" {
				t.Errorf("%s, -said +kept:\n%s", what, diff)
			}
			seen, err := r.SeenHosts(t.Context())
			if diff := cmp.Diff(scheduler.Sighting{At: h.SeenAt, Warm: append([]string{}, h.Free.Warm...)}, seen[h.ID]); diff != "" {
				t.Errorf("%s, -said +seen:\n%s", what, diff)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("joined")
	h.Free = nimbus.Capacity{CPUs: 4, MemoryMiB: 512, Sandboxes: 3, GPUs: map[string]int{"h100": 1}, Warm: []string{"cls_a", "cls_a", "cls_b"}}
	touch(&h.Free)
	expect("told")
	touch(nil)
	expect("seen by one that knows no more")
	h.Free = nimbus.Capacity{CPUs: 3}
	touch(&h.Free)
	expect("has nothing warm any more")
	closed := func(want map[nimbus.Pressure]int) {
		t.Helper()
		got, err := b.ClosedCounts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("closed, -want +got:\n%s", diff)
		}
	}
	h.Free = nimbus.Capacity{Load: nimbus.Load{Memory: 31.5, Disk: 40, Closed: nimbus.PressureMemory, Why: "everything waits"}}
	touch(&h.Free)
	expect("is hard pressed")
	touch(nil)
	closed(map[nimbus.Pressure]int{nimbus.PressureMemory: 1})
	h.Free = nimbus.Capacity{CPUs: 3}
	touch(&h.Free)
	expect("has eased")
	closed(map[nimbus.Pressure]int{})
}
