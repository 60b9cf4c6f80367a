//go:build cgo

package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// in is a mock that is in a state.
func in(t *testing.T, s MockState) (source Source, set func(MockState)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.json")
	set = func(s MockState) {
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".tmp", raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			t.Fatal(err)
		}
	}
	set(s)
	return Mock(path), set
}

// TestInventoryOfADGX reads all of a machine.
func TestInventoryOfADGX(t *testing.T) {
	t.Parallel()
	source, _ := in(t, MockState{MIG: map[int]int{7: 2}, GPUs: map[int]MockGPU{5: {Lost: true}, 6: {UncorrectedECC: 3, Celsius: 91}}})
	inv, ret := (&reader{source: source}).inventory()
	if ret != nvml.SUCCESS || inv.Driver != "550.54.15" || inv.CUDAMajor != 12 || inv.CUDAMinor != 4 || len(inv.GPUs) != 8 || len(inv.Links) != 28 {
		t.Fatalf("%v: %+v", ret, inv)
	}
	want := inventory.GPU{UUID: "GPU-00000000-0000-4000-8000-000000000006", Index: 6, Model: "Mock NVIDIA A100-SXM4-40GB", MemoryMiB: 40960, Major: 8,
		Bus: "0000:83:00.0", NUMA: 1, Condition: inventory.Condition{UncorrectedECC: 3, Celsius: 91, SlowdownCelsius: 90}}
	if diff := cmp.Diff(want, inv.GPUs[6]); diff != "" {
		t.Error(diff)
	}
	if inv.GPUs[5].Condition.Lost == "" {
		t.Error("one that is lost is not told of")
	}
	slice := inventory.Slice{UUID: "MIG-00000000-0000-4000-8001-000000000007", Index: 1, Profile: "1g.5gb", MemoryMiB: 4864}
	if g := inv.GPUs[7]; !g.MIG || len(g.Slices) != 2 || g.Slices[1] != slice {
		t.Errorf("slices: %+v", g)
	}
	for _, l := range inv.Links {
		want := inventory.LevelFar
		switch {
		case l.A/2 == l.B/2:
			want = inventory.LevelSingle
		case l.A/4 == l.B/4:
			want = inventory.LevelNode
		}
		if l.NVLinks != 12 || l.Level != want {
			t.Errorf("%+v", l)
		}
	}
}

// TestNVLinksWithoutASwitch counts those that lead from one GPU to another.
func TestNVLinksWithoutASwitch(t *testing.T) {
	t.Parallel()
	source, _ := in(t, MockState{})
	lib := source.Library
	for k := range 8 {
		handle, _ := lib.DeviceGetHandleByIndex(k)
		d, ok := handle.(*server.Device)
		if !ok {
			t.Fatal("the mock is another")
		}
		d.GetNvLinkRemoteDeviceTypeFunc = func(int) (nvml.IntNvLinkDeviceType, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
		d.GetNvLinkRemotePciInfoFunc = func(link int) (nvml.PciInfo, nvml.Return) {
			if link < 4 {
				return pciOf(k ^ 1), nvml.SUCCESS
			}
			return nvml.PciInfo{Bus: 0xff}, nvml.SUCCESS // something else
		}
	}
	inv, _ := (&reader{source: source}).inventory()
	for _, l := range inv.Links {
		if want := map[bool]int{true: 4}[l.A^1 == l.B]; l.NVLinks != want {
			t.Errorf("%+v, want %d", l, want)
		}
	}
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct {
		name           string
		gpu, comp, mib int
		total          int
	}{
		"1g.10gb":    {"NVIDIA H100 80GB HBM3 MIG 1g.10gb", 1, 1, 9984, 81559},
		"1g.10gb.me": {"NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", 1, 1, 9984, 81559},
		"1g.5gb":     {"", 1, 1, 4864, 40960},
		"3g.20gb":    {"", 3, 3, 19968, 40960},
		"1c.3g.20gb": {"", 3, 1, 19968, 40960},
		"7g.80gb":    {"", 7, 7, 81050, 81559},
	} {
		a := nvml.DeviceAttributes{GpuInstanceSliceCount: uint32(c.gpu), ComputeInstanceSliceCount: uint32(c.comp), MemorySizeMB: uint64(c.mib)}
		if got := profileOf(c.name, a, c.total); got != want {
			t.Errorf("%+v is %q, want %q", c, got, want)
		}
	}
}

// TestServe tells of what there is, what it does, and of errors as they come,
// until it is told to end.
func TestServe(t *testing.T) {
	t.Parallel()
	source, set := in(t, MockState{})
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, source, in, false)
		in.Close()
	}()
	set(MockState{GPUs: map[int]MockGPU{1: {XID: 79, PIDs: []int{7}, BusyPercent: 40, Watts: 300, MemoryMiB: 100}}})
	r := inventory.NewReader(out)
	var seen, sampled bool
	for !seen || !sampled {
		d, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if d.Event != nil {
			seen = *d.Event == inventory.Event{GPU: "GPU-00000000-0000-4000-8000-000000000001", XID: 79}
		}
		if d.Usage != nil && slices.Equal(d.Usage.Samples[1].PIDs, []int{7}) {
			s := d.Usage.Samples[1]
			sampled = s.BusyPercent == 40 && s.PowerMilliwatts == 300_000 && s.MemoryBytes == 104<<20
		}
	}
	stop()
	go func() { _, _ = io.Copy(io.Discard, out) }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
}

// TestNoDriver: this library is the real one, and the machine has none, or has.
func TestNoDriver(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Serve(t.Context(), Real(), &out, true); err != nil {
		t.Fatal(err)
	}
	d, err := inventory.NewReader(&out).Next()
	if err != nil || d.Failure == nil && d.Inventory == nil || d.Failure != nil && (d.Failure.What == "" || d.Failure.Hint == "") {
		t.Errorf("%+v, %v", d, err)
	}
}
