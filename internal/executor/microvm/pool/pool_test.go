package pool

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

var plenty = Limits{Machines: 100, MemoryMiB: 100_000, Free: nimbus.Capacity{CPUs: 1000, MemoryMiB: 1 << 20, Sandboxes: 1000}}

func class(name string, rate float64) Class {
	return Class{
		Class: nimbus.Class{Executor: nimbus.ExecutorMicroVM, Image: name, CPUs: 2, MemoryMiB: 1024},
		Rate:  rate, Lead: 2 * time.Second, IdleMiB: 64,
	}
}

func TestWanted(t *testing.T) {
	t.Parallel()
	const minute, hour = 1.0 / 60, 1.0 / 3600
	for _, c := range []struct {
		name string
		rate float64
		lead time.Duration
		want int
	}{
		{"nobody comes", 0, time.Second, 0},
		{"one a day", hour / 24, time.Second, 0},
		{"one an hour", hour, time.Second, 0},
		{"three an hour", 3 * hour, time.Second, 1},
		{"one a minute", minute, time.Second, 1},
		{"one a minute, made slowly", minute, time.Minute, 4},
		{"two a second", 2, 2 * time.Second, 9},
		{"more than can be", 1000, time.Hour, most},
	} {
		if got := Wanted(c.rate, c.lead); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestTargetsKeepWithinLimits(t *testing.T) {
	t.Parallel()
	busy, calm, dead := class("busy", 2), class("calm", 0.01), class("dead", 0)
	all := []Class{dead, calm, busy}
	for _, c := range []struct {
		name       string
		limits     Limits
		busy, calm int
	}{
		{"plenty", plenty, 9, 1},
		{"none", Limits{}, 0, 0},
		{"one machine", Limits{Machines: 1, MemoryMiB: 1000, Free: plenty.Free}, 1, 0},
		{"three machines", Limits{Machines: 3, MemoryMiB: 1000, Free: plenty.Free}, 2, 1},
		{"little memory", Limits{Machines: 100, MemoryMiB: 130, Free: plenty.Free}, 1, 1},
		{"few CPUs are free", Limits{Machines: 100, MemoryMiB: 1000, Free: nimbus.Capacity{CPUs: 7, MemoryMiB: 8192, Sandboxes: 9}}, 2, 1},
		{"a full host", Limits{Machines: 100, MemoryMiB: 1000}, 0, 0},
	} {
		got := Targets(all, c.limits)
		if got[busy.ID()] != c.busy || got[calm.ID()] != c.calm || got[dead.ID()] != 0 {
			t.Errorf("%s: busy %d, calm %d, dead %d", c.name, got[busy.ID()], got[calm.ID()], got[dead.ID()])
		}
	}
}

func TestDemandForgets(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 9, 30, 0, 0, time.UTC)
	var d Demand
	if !d.Forgotten(now) || d.Rate(now) != 0 {
		t.Error("one that has seen nothing expects something")
	}
	for range 10 {
		now = now.Add(time.Minute)
		d = d.Arrive(now)
	}
	if perMinute := d.Rate(now) * 60; perMinute < 0.5 || perMinute > 1.1 {
		t.Errorf("ten in ten minutes: %.2f a minute", perMinute)
	}
	if later := d.Rate(now.Add(time.Hour)); later > d.Rate(now)/100 {
		t.Errorf("an hour later: %f", later)
	}
	// The next day at that hour they are expected again.
	if next := d.Rate(now.Add(23*time.Hour + 30*time.Minute)); next*time.Hour.Seconds() < 1 {
		t.Errorf("the next morning: %f an hour", next*time.Hour.Seconds())
	}
	if d.Forgotten(now.Add(24*time.Hour)) || !d.Forgotten(now.Add(60*24*time.Hour)) {
		t.Error("it forgets at the wrong time")
	}
}

// TestSimulation lets jobs come for five days, with a night and two rushes in
// each, to a pool that follows the rule.
func TestSimulation(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	// rate is jobs a second at an hour.
	rate := func(now time.Time) float64 {
		switch hour := now.Hour(); {
		case hour < 7 || hour > 20:
			return 0
		case hour == 9 || hour == 14:
			return 0.5
		}
		return 1.0 / 120
	}
	const lead = 3 * time.Second
	start := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	var d Demand
	var making []time.Time // when each will be ready
	ready, hits, jobs, nightly, peak := 0, 0, 0, 0, 0
	for now := start; now.Before(start.Add(5 * 24 * time.Hour)); now = now.Add(time.Second) {
		for len(making) > 0 && !making[0].After(now) {
			making = making[1:]
			ready++
		}
		for n := poisson(rng, rate(now)); n > 0; n-- {
			d = d.Arrive(now)
			jobs++
			if ready > 0 {
				ready--
				hits++
			}
		}
		c := class("runner", d.Rate(now))
		c.Lead = lead
		target := Targets([]Class{c}, plenty)[c.ID()]
		for ready+len(making) < target {
			making = append(making, now.Add(lead))
		}
		ready = min(ready, max(target-len(making), 0))
		peak = max(peak, ready)
		if now.Hour() == 3 {
			nightly = max(nightly, ready)
		}
	}
	t.Logf("%d of %d jobs found a machine, %d were ready at most", hits, jobs, peak)
	if share := float64(hits) / float64(jobs); share < sure {
		t.Errorf("%.3f of %d jobs found a machine", share, jobs)
	}
	if nightly > 0 || peak > 8 {
		t.Errorf("%d waited at night, %d in the rush", nightly, peak)
	}
}

func poisson(rng *rand.Rand, mean float64) (n int) {
	for p := rng.Float64(); p > math.Exp(-mean); n++ {
		p *= rng.Float64()
	}
	return n
}
