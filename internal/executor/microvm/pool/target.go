package pool

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Limits bound what is kept ready.
type Limits struct {
	Machines  int // in all
	MemoryMiB int // that they may take together
	// Free is what jobs could take now: a machine for which no job could be
	// accepted is of no use.
	Free nimbus.Capacity
}

// Class is a class with what is known of it.
type Class struct {
	nimbus.Class

	Rate float64 // jobs a second
	// Lead is how long it takes to make one more machine.
	Lead time.Duration
	// IdleMiB is the memory that one takes while it waits.
	IdleMiB int
}

const (
	// sure is how often a job is to find a machine ready.
	sure = 0.95
	// horizon is for how long a machine may wait for its job.
	horizon = 30 * time.Minute
	// likely is how probable a job within the horizon has to be for a machine to
	// wait for it.
	likely = 0.5
	// most is how many of one class are ready at most.
	most = 64
)

// Wanted is how many machines of a class make nearly every job find one, be
// there room or not: one for the next job, and as many as come until that one is
// replaced.
func Wanted(rate float64, lead time.Duration) int {
	if 1-math.Exp(-rate*horizon.Seconds()) < likely {
		return 0
	}
	// The arrivals while one is made are Poisson's.
	mean := rate * lead.Seconds()
	term := math.Exp(-mean)
	sum := term
	n := 1
	for ; sum < sure && n < most; n++ {
		term *= mean / float64(n)
		sum += term
	}
	return n
}

// Busier orders classes by their rate, the highest first.
func Busier(a, b Class) int {
	return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(a.ID(), b.ID()))
}

// Targets is how many machines of each class are to be ready, by its id. Each
// class gets its first before any gets its second, the busier one first.
func Targets(classes []Class, l Limits) map[string]int {
	classes = slices.Clone(classes)
	slices.SortFunc(classes, Busier)
	targets := map[string]int{}
	for round := 1; round <= most; round++ {
		given := false
		for _, c := range classes {
			if Wanted(c.Rate, c.Lead) < round {
				continue
			}
			_, left, fits := l.Free.Reserve(c.Class)
			if !fits || l.Machines < 1 || l.MemoryMiB < c.IdleMiB {
				continue
			}
			l = Limits{Machines: l.Machines - 1, MemoryMiB: l.MemoryMiB - c.IdleMiB, Free: left}
			targets[c.ID()]++
			given = true
		}
		if !given {
			break
		}
	}
	return targets
}
