package inventory_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

func TestCapabilities(t *testing.T) {
	t.Parallel()
	h100 := inventory.GPU{UUID: "GPU-0", Major: 9}
	for name, c := range map[string]struct {
		inv  inventory.Inventory
		want string
	}{
		"none":  {inventory.Inventory{CUDAMajor: 12, CUDAMinor: 2}, ""},
		"alike": {inventory.Inventory{CUDAMajor: 12, CUDAMinor: 2, GPUs: []inventory.GPU{h100}}, "cuda cuda-11 cuda-12 cuda-12.0 cuda-12.1 cuda-12.2 sm_90"},
		"joined": {inventory.Inventory{CUDAMajor: 11, GPUs: []inventory.GPU{h100, h100}, Links: []inventory.Link{{B: 1, NVLinks: 18}}},
			"cuda cuda-11 cuda-11.0 nvlink sm_90"},
		"not alike": {inventory.Inventory{CUDAMajor: 11, GPUs: []inventory.GPU{h100, {Major: 8, Minor: 6}}}, "cuda cuda-11 cuda-11.0"},
	} {
		got := c.inv.Capabilities()
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v", name, got)
		}
		for _, word := range got {
			if _, err := nimbus.ParseLabels([]string{"nimbus", "gpu", word}); err != nil {
				t.Errorf("no label asks for %q: %v", word, err)
			}
		}
	}
}

func TestUnitsAndGroups(t *testing.T) {
	t.Parallel()
	inv := inventory.Inventory{GPUs: []inventory.GPU{
		{UUID: "GPU-0", Model: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559},
		{UUID: "GPU-1", Index: 1, Model: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559},
		{UUID: "GPU-2", Index: 2, Model: "NVIDIA H100 80GB HBM3", MIG: true, Slices: []inventory.Slice{{UUID: "MIG-0", Profile: "1g.10gb", MemoryMiB: 9856}}},
	}}
	want := []nimbus.GPUGroup{
		{Profile: "1g.10gb", Model: "NVIDIA H100 80GB HBM3 MIG 1g.10gb", MemoryMiB: 9856, Count: 1},
		{Profile: "h100-80gb-hbm3", Model: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559, Count: 2},
	}
	if diff := cmp.Diff(want, inventory.Groups(inv.Units())); diff != "" {
		t.Error(diff)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		condition inventory.Condition
		xids      []uint64
		wasHot    bool
		want      string
	}{
		"sound":                    {inventory.Condition{Celsius: 70, SlowdownCelsius: 90}, nil, false, ""},
		"a program's own error":    {inventory.Condition{}, []uint64{13, 31, 43, 45}, false, ""},
		"off the bus":              {inventory.Condition{}, []uint64{13, 79}, false, "XID 79: it has fallen off the bus"},
		"an error of no name":      {inventory.Condition{}, []uint64{999}, false, "XID 999"},
		"memory errors":            {inventory.Condition{UncorrectedECC: 2}, nil, false, "2 uncorrectable memory errors"},
		"a row to be replaced":     {inventory.Condition{RemapPending: true}, nil, false, "next reset"},
		"no row left":              {inventory.Condition{RemapPending: true, RemapFailed: true}, nil, false, "replace it"},
		"lost":                     {inventory.Condition{Lost: "Unknown Error"}, nil, false, "can't be read: Unknown Error"},
		"hot":                      {inventory.Condition{Celsius: 90, SlowdownCelsius: 90}, nil, false, "too hot: it slows down at 90 °C, and comes back at 80 °C"},
		"not cool enough":          {inventory.Condition{Celsius: 81, SlowdownCelsius: 90}, nil, true, "too hot"},
		"cool again":               {inventory.Condition{Celsius: 79, SlowdownCelsius: 90}, nil, true, ""},
		"nobody knows what is hot": {inventory.Condition{Celsius: 300}, nil, true, ""},
	} {
		if got := c.condition.Fault(c.xids, c.wasHot); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sample inventory.Sample
		want   string
	}{
		"idle":           {inventory.Sample{MemoryBytes: 4 << 20, BusyPercent: 3}, ""},
		"processes":      {inventory.Sample{PIDs: []int{1, 2, 3, 4, 5}}, "no job's: 1 2 3 4 and others"},
		"memory is left": {inventory.Sample{MemoryBytes: 5 << 30}, "512 MiB of memory in use"},
		"lost":           {inventory.Sample{Lost: "gone"}, "can't be read: gone"},
	} {
		if got := c.sample.Busy(); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestProtocol(t *testing.T) {
	t.Parallel()
	docs := []inventory.Document{
		{Inventory: &inventory.Inventory{Driver: "550.54.15", CUDAMajor: 12, GPUs: []inventory.GPU{{UUID: "GPU-0", NUMA: -1}}}},
		{Usage: &inventory.Usage{AtMillis: 1, Samples: []inventory.Sample{{ID: "GPU-0", BusyPercent: -1, PIDs: []int{7}}}}},
		{Event: &inventory.Event{GPU: "GPU-0", XID: 79}},
		{Failure: &inventory.Failure{What: "no driver", Hint: "install it"}},
	}
	var all bytes.Buffer
	for _, d := range docs {
		if err := d.Write(&all); err != nil {
			t.Fatal(err)
		}
	}
	r := inventory.NewReader(&all)
	for _, want := range docs {
		got, err := r.Next()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// TestProtocolIsBounded: what can't be is not believed.
func TestProtocolIsBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no JSON":          "{",
		"a long line":      `{"failure":{"what":"` + strings.Repeat("x", inventory.MaxDocument) + `"}}`,
		"a path for an id": `{"inventory":{"gpus":[{"uuid":"../x"}]}}`,
		"no id":            `{"event":{"gpu":"","xid":1}}`,
		"an id twice":      `{"inventory":{"gpus":[{"uuid":"GPU-0"},{"uuid":"GPU-0"}]}}`,
		"too many GPUs":    `{"inventory":{"gpus":[` + strings.Join(slices.Repeat([]string{"{}"}, inventory.MaxGPUs+1), ",") + `]}}`,
		"more than busy":   `{"usage":{"samples":[{"id":"GPU-0","busy_percent":101}]}}`,
		"less than none":   `{"usage":{"samples":[{"id":"GPU-0","memory_bytes":-1}]}}`,
		"many processes":   `{"usage":{"samples":[{"id":"GPU-0","pids":[0` + strings.Repeat(",1", inventory.MaxPIDs) + `]}]}}`,
	} {
		if d, err := inventory.NewReader(strings.NewReader(text + "\n")).Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}
