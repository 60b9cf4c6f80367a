package agent

import (
	"math"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/nimbus-ci/nimbus"
)

func TestLoadOfAMachine(t *testing.T) {
	t.Parallel()
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	fsys := fstest.MapFS{
		"proc/pressure/cpu":    file("some avg10=9.04 avg60=13.81 avg300=32.14 total=962766660\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
		"proc/pressure/memory": file("some avg10=40.00 avg60=1.00 avg300=0.00 total=1\nfull avg10=12.50 avg60=3.00 avg300=0.00 total=1\n"),
		"proc/pressure/io":     file("some avg10=1.00 avg60=2.00 avg300=3.00 total=1\nfull avg10=4.00 avg60=5.25 avg300=6.00 total=1\n"),
	}
	l := loadOf(fsys, t.TempDir())
	if l.CPU != 13.81 || l.Memory != 12.5 || l.IO != 5.25 || l.Disk <= 0 || l.Disk > 100 {
		t.Errorf("got %+v", l)
	}
	// An old kernel, or one that was told not to.
	if l := loadOf(fstest.MapFS{"proc/pressure/cpu": file("")}, "/nowhere"); l != (nimbus.Load{}) {
		t.Errorf("of nothing: %+v", l)
	}
}

// TestPressureHasHysteresis: a host that closed asks again once what it closed
// for has eased, not at the first moment below the threshold.
func TestPressureHasHysteresis(t *testing.T) {
	t.Parallel()
	limits := Thresholds{CPU: 90, Memory: 20, Disk: 95}
	var p pressure
	for i, step := range []struct {
		load    nimbus.Load
		closed  nimbus.Pressure
		changed bool
	}{
		{nimbus.Load{Memory: 19.9, CPU: 89, Disk: 94}, "", false},
		{nimbus.Load{Memory: 20}, nimbus.PressureMemory, true},
		{nimbus.Load{Memory: 15}, nimbus.PressureMemory, false},
		{nimbus.Load{Memory: 14.9}, "", true},
		{nimbus.Load{Memory: 15}, "", false},
		{nimbus.Load{IO: 100}, "", false}, // has no threshold
		{nimbus.Load{Disk: 95}, nimbus.PressureDisk, true},
		{nimbus.Load{Disk: 93.5, CPU: 95}, nimbus.PressureDisk, false},
		{nimbus.Load{Disk: 92, CPU: 95}, nimbus.PressureCPU, false},
		{nimbus.Load{CPU: 67}, "", true},
	} {
		if changed := p.look(limits, step.load); changed != step.changed || p.now().Closed != step.closed {
			t.Fatalf("step %d: closed for %q (changed: %t), want %q (%t)", i, p.now().Closed, changed, step.closed, step.changed)
		}
		if now := p.now(); (now.Closed == "") != (now.Why == "") || now.Check() != nil {
			t.Errorf("step %d: %+v, %v", i, now, now.Check())
		}
	}
	p.look(limits, nimbus.Load{Memory: 33.3})
	if why := p.now().Why; !strings.Contains(why, "33 %") || !strings.Contains(why, "20 %") {
		t.Errorf("it says %q", why)
	}
}

// TestAPressedHostAsksForNothing: neither room nor sandboxes that are ready, and
// for both again once it has eased.
func TestAPressedHostAsksForNothing(t *testing.T) {
	t.Parallel()
	a := &Agent{capacity: newCapacity(nimbus.Capacity{CPUs: 4, MemoryMiB: 4096, Sandboxes: 8, GPUs: map[string]int{"h100": 1}})}
	if free, _ := a.free(); free.CPUs != 4 {
		t.Fatalf("free: %+v", free)
	}
	reserved, ok := a.capacity.reserve(nimbus.Class{CPUs: 3, MemoryMiB: 1024})
	if !ok {
		t.Fatal("no room")
	}
	a.pressure.look(Thresholds{Memory: 20}, nimbus.Load{Memory: 50})
	free, _ := a.free()
	if free.CPUs != 0 || free.MemoryMiB != 0 || free.Sandboxes != 0 || len(free.GPUs) != 0 || len(free.Warm) != 0 || free.Load.Closed != nimbus.PressureMemory {
		t.Errorf("pressed, it has %+v free", free)
	}
	a.capacity.release(reserved)
	a.pressure.look(Thresholds{Memory: 20}, nimbus.Load{Memory: 1})
	if free, _ := a.free(); free.CPUs != 4 || free.MemoryMiB != 4096 || free.Sandboxes != 8 || free.Load.Closed != "" {
		t.Errorf("eased, it has %+v free", free)
	}
}

// TestOvercommit: CPUs are given out more than once where that was asked for,
// and no job gets more of them than the machine has.
func TestOvercommit(t *testing.T) {
	t.Parallel()
	cfg := Config{Server: "http://127.0.0.1:1", Name: "h", CPUs: 3, MemoryMiB: 4096, Data: t.TempDir(), OvercommitCPU: 1.5}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if free, _ := a.free(); free.CPUs != 4 || free.MemoryMiB != 4096 {
		t.Errorf("free: %+v", free)
	}
	if why := a.has.WhyNot(nimbus.Class{CPUs: 4, MemoryMiB: 1}); why != "has 3 CPUs" {
		t.Errorf("a job with more CPUs than there are: %q", why)
	}
	var taken []nimbus.Reservation
	for range 4 {
		r, ok := a.capacity.reserve(nimbus.Class{CPUs: 1, MemoryMiB: 1024})
		if !ok {
			t.Fatalf("no room for job %d", len(taken)+1)
		}
		taken = append(taken, r)
	}
	if _, ok := a.capacity.reserve(nimbus.Class{CPUs: 1, MemoryMiB: 1}); ok {
		t.Error("room for a fifth job")
	}
	for _, r := range taken {
		a.capacity.release(r)
	}
	if free, _ := a.free(); free.CPUs != 4 || free.MemoryMiB != 4096 {
		t.Errorf("free after all: %+v", free)
	}
	for _, absurd := range []Thresholds{{CPU: -1}, {Disk: 101}} {
		cfg.Pressure = absurd
		if _, err := New(cfg); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("thresholds %+v: %v", absurd, err)
		}
	}
	cfg.Pressure = Thresholds{}
	for _, factor := range []float64{0.5, -1, 17, math.NaN(), math.Inf(1)} {
		cfg.OvercommitCPU = factor
		if _, err := New(cfg); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("a factor of %v: %v", factor, err)
		}
	}
}
