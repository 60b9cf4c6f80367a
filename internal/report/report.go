// Package report makes of jobs what they say together. A report is of jobs that
// ended: how long each part of their lives took, what takes longer than it did,
// and what could do with less. A summary is of how jobs went, by their metadata.
// It is arithmetic alone: the same jobs give the same report.
//
// Durations are told by their medians and high percentiles, and compared by
// medians, since a single job that hung would move any mean.
package report

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// maxEntries bounds each list of a report.
const maxEntries = 50

// Of makes a report of runs that ended between since and until, in any order.
func Of(runs []nimbus.Run, since, until time.Time, sampled bool) nimbus.Report {
	ordered := slices.SortedFunc(slices.Values(runs), func(a, b nimbus.Run) int {
		return cmp.Or(a.FinishedAt.Compare(b.FinishedAt), strings.Compare(a.JobID, b.JobID))
	})
	return nimbus.Report{Since: since, Until: until, Runs: len(ordered), Sampled: sampled,
		Classes: classes(ordered), Regressions: regressions(ordered, since, until), Advice: advice(ordered)}
}

// key is what runs are compared by: a class, and where that is asked for, a job.
type key struct {
	class      nimbus.Class
	name, repo string
}

func ofClass(r nimbus.Run) key { return key{class: r.Class} }
func ofJob(r nimbus.Run) key   { return key{r.Class, r.Name, r.Repo} }

// grouped is the runs by a key, in their order.
func grouped(runs []nimbus.Run, by func(nimbus.Run) key) map[key][]nimbus.Run {
	out := map[key][]nimbus.Run{}
	for _, r := range runs {
		k := by(r)
		out[k] = append(out[k], r)
	}
	return out
}

// classes says how the jobs of each class went, those with the most first.
func classes(runs []nimbus.Run) (out []nimbus.ClassReport) {
	for k, of := range grouped(runs, ofClass) {
		c := nimbus.ClassReport{Class: k.class, Runs: len(of)}
		for _, r := range of {
			if failed(r) {
				c.Failed++
			}
			if r.Origin != "" {
				c.Started++
			}
			if r.Origin == nimbus.OriginWarm {
				c.Warm++
			}
		}
		for _, p := range nimbus.RunPhases() {
			if times := took(of, p); len(times) > 0 {
				c.Phases = append(c.Phases, nimbus.PhaseReport{Phase: p, Runs: len(times),
					P50: percentile(times, 50), P95: percentile(times, 95), P99: percentile(times, 99)})
			}
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b nimbus.ClassReport) int {
		return cmp.Or(cmp.Compare(b.Runs, a.Runs), strings.Compare(a.Class.ID(), b.Class.ID()))
	})
	return out[:min(len(out), maxEntries)]
}

func failed(r nimbus.Run) bool {
	return r.Result != nimbus.ResultSuccess && r.Result != nimbus.ResultCancelled
}

// took are the times that a part took, sorted.
func took(runs []nimbus.Run, p nimbus.RunPhase) (times []time.Duration) {
	for _, r := range runs {
		if d, ok := r.Took(p); ok {
			times = append(times, d)
		}
	}
	slices.Sort(times)
	return times
}

// percentile of sorted times, which are some: the least that so many percent of
// them don't exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	const all = 100
	return sorted[max((len(sorted)*p+all-1)/all-1, 0)]
}

// median of values, sorted or not; of an even number the mean of the middle two.
func median[T ~int64 | ~float64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// Parts of the time, and what makes a difference one that is told.
const (
	// recent is the last part of the time, which is compared with what was before.
	recent = 4 // one in so many
	// leastRuns is how many runs it takes on each side.
	leastRuns = 20
	// leastTimes and leastMore are by how much it must take longer.
	leastTimes = 1.2
	leastMore  = 100 * time.Millisecond
	// leastErrors is how many standard errors of a median are no chance any more:
	// there are many classes and jobs to be wrong about.
	leastErrors = 5
)

// regressions are the parts that take longer than in their own past. What a class
// waits for and starts with is the class's; how long it runs, the job's: a class
// that gets longer jobs is no slower.
func regressions(runs []nimbus.Run, since, until time.Time) (out []nimbus.Regression) {
	from := until.Add(-until.Sub(since) / recent)
	compare := func(by func(nimbus.Run) key, phases ...nimbus.RunPhase) {
		for k, of := range grouped(runs, by) {
			i, _ := slices.BinarySearchFunc(of, from, func(r nimbus.Run, t time.Time) int { return r.FinishedAt.Compare(t) })
			for _, p := range phases {
				before, after := took(of[:i], p), took(of[i:], p)
				if !longer(before, after) {
					continue
				}
				out = append(out, nimbus.Regression{Class: k.class, Phase: p, Name: k.name, Repo: k.repo, Since: from,
					BeforeRuns: len(before), AfterRuns: len(after), Before: median(before), After: median(after)})
			}
		}
	}
	compare(ofClass, nimbus.RunPhaseQueue, nimbus.RunPhaseSandbox, nimbus.RunPhaseStart)
	compare(func(r nimbus.Run) key {
		if r.Result != nimbus.ResultSuccess { // how soon a job fails says nothing
			return key{}
		}
		return ofJob(r)
	}, nimbus.RunPhaseRun)
	out = slices.DeleteFunc(out, func(r nimbus.Regression) bool { return r.Class == nimbus.Class{} })
	slices.SortFunc(out, func(a, b nimbus.Regression) int {
		return cmp.Or(cmp.Compare(worse(b), worse(a)), strings.Compare(a.Class.ID(), b.Class.ID()), strings.Compare(a.Repo+a.Name, b.Repo+b.Name),
			strings.Compare(string(a.Phase), string(b.Phase)))
	})
	return out[:min(len(out), maxEntries)]
}

func worse(r nimbus.Regression) float64 { return float64(r.After) / float64(max(r.Before, 1)) }

// longer tells whether the medians of two samples differ by more than chance and
// by enough to matter. The spread of each is its median absolute deviation, as
// robust as the medians; 1.4826 makes a standard deviation of it, and 1.2533 the
// error of a median of one.
func longer(before, after []time.Duration) bool {
	if len(before) < leastRuns || len(after) < leastRuns {
		return false
	}
	b, a := median(before), median(after)
	if float64(a) < leastTimes*float64(b) || a-b < leastMore {
		return false
	}
	const toDeviation, toError = 1.4826, 1.2533
	square := func(of []time.Duration, mid time.Duration) float64 {
		away := make([]time.Duration, len(of))
		for i, d := range of {
			away[i] = (d - mid).Abs()
		}
		e := toError * toDeviation * float64(median(away))
		return e * e / float64(len(of))
	}
	return float64(a-b) > leastErrors*math.Sqrt(square(before, b)+square(after, a))
}
