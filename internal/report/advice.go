package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// adviceRuns is how many runs it takes to say that a job needs no more, and
	// adviceLast of how many at most it is looked at what they needed: a job
	// changes.
	adviceRuns = 20
	adviceLast = 50
	// memoryRoom is what memory is left beyond the most that was ever used.
	memoryRoom = 1.25
)

// advice is the sizes that would do for jobs which have more, the largest saving
// first. Nothing is advised that any of the runs would have been short of: CPUs go
// by the most that were in use for ten seconds, not by the mean.
func advice(runs []nimbus.Run) (out []nimbus.Advice) {
	for k, of := range grouped(runs, ofJob) {
		of = slices.DeleteFunc(of, func(r nimbus.Run) bool { return !tells(r) })
		of = of[max(0, len(of)-adviceLast):]
		if len(of) < adviceRuns {
			continue
		}
		for _, a := range []nimbus.Advice{cpuAdvice(k.class, of), memoryAdvice(k.class, of)} {
			if a.Enough < a.Has {
				a.Name, a.Repo, a.Class, a.Runs = k.name, k.repo, k.class, len(of)
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, func(a, b nimbus.Advice) int {
		return cmp.Or(cmp.Compare(b.SavedHours, a.SavedHours), strings.Compare(a.Class.ID(), b.Class.ID()), strings.Compare(a.Repo+a.Name, b.Repo+b.Name),
			strings.Compare(string(a.Resource), string(b.Resource)))
	})
	return out[:min(len(out), maxEntries)]
}

// tells is whether a run shows what its job needs: one that was cut short, or ran
// out of something, does not.
func tells(r nimbus.Run) bool {
	_, ran := r.Took(nimbus.RunPhaseRun)
	ended := r.Result == nimbus.ResultSuccess || r.Result == nimbus.ResultFailure && r.Reason == nimbus.ReasonNone
	return ran && ended && r.Usage.PeakCPUs > 0 && r.Usage.PeakMemoryBytes > 0
}

// hours is for how long runs held what their class has.
func hours(runs []nimbus.Run) float64 {
	var sum time.Duration
	for _, r := range runs {
		from := r.AcceptedAt
		if from.IsZero() {
			from = r.RunningAt
		}
		sum += max(r.FinishedAt.Sub(from), 0)
	}
	return sum.Hours()
}

func cpuAdvice(c nimbus.Class, runs []nimbus.Run) nimbus.Advice {
	a := nimbus.Advice{Resource: nimbus.ResourceCPU, Has: c.CPUs}
	var used, ran time.Duration
	for _, r := range runs {
		d, _ := r.Took(nimbus.RunPhaseRun)
		used, ran = used+r.Usage.CPUTime, ran+d
		a.Most = max(a.Most, r.Usage.PeakCPUs)
	}
	if ran > 0 {
		a.Mean = float64(used) / float64(ran)
	}
	// A sandbox's monitor takes a few percent of its own, which one CPU more would
	// not be worth.
	const monitor = 0.05
	a.Enough = max(1, int(math.Ceil(a.Most-monitor)))
	a.SavedHours = hours(runs) * float64(a.Has-a.Enough)
	a.Label = fmt.Sprintf("cpu:%d", a.Enough)
	return a
}

// memoryAdvice is in whole GiB, as labels are.
func memoryAdvice(c nimbus.Class, runs []nimbus.Run) nimbus.Advice {
	const mib, gib = 1 << 20, 1 << 10
	a := nimbus.Advice{Resource: nimbus.ResourceMemory, Has: c.MemoryMiB}
	for _, r := range runs {
		m := float64(r.Usage.PeakMemoryBytes) / mib
		a.Mean += m / float64(len(runs))
		a.Most = max(a.Most, m)
	}
	enough := max(1, int(math.Ceil(a.Most*memoryRoom/gib)))
	a.Enough = enough * gib
	a.SavedHours = hours(runs) * float64(a.Has-a.Enough) / gib
	a.Label = fmt.Sprintf("memory:%d", enough)
	return a
}
