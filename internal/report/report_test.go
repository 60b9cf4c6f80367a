package report_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/report"
)

var (
	until = time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC)
	since = until.Add(-14 * 24 * time.Hour)
	class = nimbus.Class{Executor: nimbus.ExecutorMicroVM, Image: "runner", CPUs: 4, MemoryMiB: 8192, Network: nimbus.NetworkInternet}
)

// history makes n runs of a job, spread over the time, the last one at its end.
func history(name string, n int, edit func(i int, r *nimbus.Run)) (runs []nimbus.Run) {
	for i := range n {
		end := since.Add(time.Duration(i+1) * until.Sub(since) / time.Duration(n)).Add(-time.Second)
		r := nimbus.Run{JobID: fmt.Sprintf("%s-%04d", name, i), Name: name, Repo: "octo/app", Class: class, Result: nimbus.ResultSuccess, Origin: nimbus.OriginWarm,
			FinishedAt: end, RunningAt: end.Add(-time.Minute), SandboxReadyAt: end.Add(-61 * time.Second), AcceptedAt: end.Add(-62 * time.Second),
			QueuedAt: end.Add(-64 * time.Second)}
		if edit != nil {
			edit(i, &r)
		}
		runs = append(runs, r)
	}
	return runs
}

func of(runs ...[]nimbus.Run) nimbus.Report {
	return report.Of(slices.Concat(runs...), since, until, false)
}

func TestClassesSayHowTheirJobsWent(t *testing.T) {
	t.Parallel()
	runs := history("build", 100, func(i int, r *nimbus.Run) {
		// From 1 to 100 s, in no order.
		took := time.Duration((i*37)%100+1) * time.Second
		r.RunningAt = r.FinishedAt.Add(-took)
		r.SandboxReadyAt, r.AcceptedAt, r.QueuedAt = r.RunningAt, r.RunningAt.Add(-time.Second), r.RunningAt.Add(-3*time.Second)
		switch {
		case i < 5:
			r.Result = nimbus.ResultFailure
		case i < 7:
			r.Result = nimbus.ResultLost
		case i < 20:
			r.Result = nimbus.ResultCancelled
		}
		switch {
		case i < 10:
			r.Origin = ""
		case i < 40:
			r.Origin = nimbus.OriginCold
		}
	})
	small := class
	small.CPUs = 1
	never := history("never accepted", 1, func(_ int, r *nimbus.Run) {
		*r = nimbus.Run{JobID: "x", Name: "y", Class: small, Result: nimbus.ResultCancelled, QueuedAt: since, FinishedAt: since.Add(time.Hour)}
	})
	got := of(never, runs)
	want := []nimbus.ClassReport{
		{Class: class, Runs: 100, Failed: 7, Started: 90, Warm: 60, Phases: []nimbus.PhaseReport{
			{Phase: nimbus.RunPhaseQueue, Runs: 100, P50: 2 * time.Second, P95: 2 * time.Second, P99: 2 * time.Second},
			{Phase: nimbus.RunPhaseSandbox, Runs: 100, P50: time.Second, P95: time.Second, P99: time.Second},
			{Phase: nimbus.RunPhaseStart, Runs: 100},
			{Phase: nimbus.RunPhaseRun, Runs: 100, P50: 50 * time.Second, P95: 95 * time.Second, P99: 99 * time.Second},
		}},
		{Class: small, Runs: 1},
	}
	if diff := cmp.Diff(want, got.Classes); diff != "" {
		t.Error(diff)
	}
	if got.Runs != 101 || !got.Since.Equal(since) || !got.Until.Equal(until) {
		t.Errorf("%d runs from %s to %s", got.Runs, got.Since, got.Until)
	}
}

// slower makes what a part took longer from a share of the history on.
func slower(p nimbus.RunPhase, from float64, n int, by time.Duration) func(int, *nimbus.Run) {
	return func(i int, r *nimbus.Run) {
		if float64(i) < from*float64(n) {
			return
		}
		switch p {
		case nimbus.RunPhaseQueue:
			r.QueuedAt = r.QueuedAt.Add(-by)
		case nimbus.RunPhaseSandbox:
			r.AcceptedAt, r.QueuedAt = r.AcceptedAt.Add(-by), r.QueuedAt.Add(-by)
		case nimbus.RunPhaseStart, nimbus.RunPhaseRun:
			for _, at := range []*time.Time{&r.RunningAt, &r.SandboxReadyAt, &r.AcceptedAt, &r.QueuedAt} {
				*at = at.Add(-by)
			}
		}
	}
}

func TestRegressionsAreToldWithBothNumbers(t *testing.T) {
	t.Parallel()
	const n = 200
	from := until.Add(-84 * time.Hour) // the last quarter of two weeks
	for p, want := range map[nimbus.RunPhase]nimbus.Regression{
		nimbus.RunPhaseQueue:   {Class: class, Phase: nimbus.RunPhaseQueue, Since: from, BeforeRuns: 150, AfterRuns: 50, Before: 2 * time.Second, After: 12 * time.Second},
		nimbus.RunPhaseSandbox: {Class: class, Phase: nimbus.RunPhaseSandbox, Since: from, BeforeRuns: 150, AfterRuns: 50, Before: time.Second, After: 11 * time.Second},
	} {
		got := of(history("build", n, slower(p, 0.75, n, 10*time.Second))).Regressions
		if diff := cmp.Diff([]nimbus.Regression{want}, got); diff != "" {
			t.Errorf("%s: %s", p, diff)
		}
	}
	got := of(history("build", n, slower(nimbus.RunPhaseRun, 0.75, n, 30*time.Second)), history("other", n, nil)).Regressions
	want := []nimbus.Regression{{Class: class, Phase: nimbus.RunPhaseRun, Name: "build", Repo: "octo/app", Since: from,
		BeforeRuns: 150, AfterRuns: 50, Before: time.Minute, After: 90 * time.Second}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestWhatIsNoRegression: noise, a few jobs that hung, few runs, less than
// matters, other jobs than before, jobs that fail later than they did.
func TestWhatIsNoRegression(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	noisy := func(_ int, r *nimbus.Run) {
		r.RunningAt = r.FinishedAt.Add(-time.Duration(random.Int64N(int64(2 * time.Minute))))
		r.SandboxReadyAt = r.RunningAt
		r.AcceptedAt = r.RunningAt.Add(-time.Duration(random.Int64N(int64(10 * time.Second))))
		r.QueuedAt = r.AcceptedAt.Add(-time.Duration(random.Int64N(int64(time.Minute))))
	}
	long := history("long", 50, func(_ int, r *nimbus.Run) {
		r.RunningAt, r.FinishedAt = until.Add(-time.Hour), until.Add(-time.Minute)
		r.SandboxReadyAt, r.AcceptedAt, r.QueuedAt = r.RunningAt.Add(-time.Second), r.RunningAt.Add(-2*time.Second), r.RunningAt.Add(-4*time.Second)
	})
	for name, runs := range map[string][]nimbus.Run{
		"noise": history("build", 80, noisy),
		"a few that hung": history("build", 400, func(i int, r *nimbus.Run) {
			if i >= 300 && i%4 == 0 {
				slower(nimbus.RunPhaseSandbox, 0, 1, time.Hour)(i, r)
			}
		}),
		"few runs": history("build", 4*19, slower(nimbus.RunPhaseQueue, 0.75, 4*19, time.Hour)),
		"less than matters": history("build", 200, func(i int, r *nimbus.Run) {
			r.AcceptedAt = r.SandboxReadyAt.Add(-10 * time.Millisecond)
			r.QueuedAt = r.AcceptedAt
			slower(nimbus.RunPhaseSandbox, 0.75, 200, 50*time.Millisecond)(i, r)
		}),
		"a small part":           history("build", 200, slower(nimbus.RunPhaseRun, 0.75, 200, 5*time.Second)),
		"other jobs than before": slices.Concat(history("short", 200, nil), long),
		"nothing":                nil,
	} {
		if got := of(runs).Regressions; len(got) > 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// Noise again and again: there are many classes to be wrong about.
	wrong := 0
	for range 300 {
		wrong += len(of(history("build", 80, noisy)).Regressions)
	}
	if wrong > 1 {
		t.Errorf("%d regressions in 300 histories of noise", wrong)
	}
}

func used(cpus, peak float64, mib int64) func(int, *nimbus.Run) {
	return func(_ int, r *nimbus.Run) {
		r.Usage = nimbus.UsageTotals{CPUTime: time.Duration(cpus * float64(time.Minute)), PeakCPUs: peak, PeakMemoryBytes: mib << 20}
	}
}

func TestAdviceHasItsNumbers(t *testing.T) {
	t.Parallel()
	got := of(history("lint", 20, used(0.4, 0.9, 1500)), history("build", 30, used(3, 3.9, 7000))).Advice
	// 20 runs of 62 s each.
	held := 20 * 62.0 / 3600
	want := []nimbus.Advice{
		{Name: "lint", Repo: "octo/app", Class: class, Resource: nimbus.ResourceMemory, Runs: 20, Has: 8192, Enough: 2048, Mean: 1500, Most: 1500, SavedHours: 6 * held, Label: "memory:2"},
		{Name: "lint", Repo: "octo/app", Class: class, Resource: nimbus.ResourceCPU, Runs: 20, Has: 4, Enough: 1, Mean: 0.4, Most: 0.9, SavedHours: 3 * held, Label: "cpu:1"},
	}
	near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-6 && b-a < 1e-6 })
	if diff := cmp.Diff(want, got, near); diff != "" {
		t.Error(diff)
	}
}

// TestNothingIsAdvisedThatARunWasShortOf: a single run that needed more, runs that
// say nothing, and what can't be smaller.
func TestNothingIsAdvisedThatARunWasShortOf(t *testing.T) {
	t.Parallel()
	small := used(0.4, 0.9, 100)
	tiny := nimbus.Class{Executor: nimbus.ExecutorLocal, CPUs: 1, MemoryMiB: 1024}
	for name, runs := range map[string][]nimbus.Run{
		"one that needed more": history("build", 40, func(i int, r *nimbus.Run) {
			small(i, r)
			if i == 30 {
				used(0.5, 3.5, 6600)(i, r)
			}
		}),
		"too few":      history("build", 19, small),
		"not measured": history("build", 40, nil),
		"cancelled": history("build", 40, func(i int, r *nimbus.Run) {
			small(i, r)
			r.Result = nimbus.ResultCancelled
		}),
		"out of memory": history("build", 40, func(i int, r *nimbus.Run) {
			small(i, r)
			r.Result, r.Reason = nimbus.ResultFailure, nimbus.ReasonLimit
		}),
		"as small as can be": history("build", 40, func(i int, r *nimbus.Run) {
			small(i, r)
			r.Class = tiny
		}),
	} {
		if got := of(runs).Advice; len(got) > 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// What it needed long ago counts no more.
	old := history("build", 100, func(i int, r *nimbus.Run) {
		small(i, r)
		if i < 40 {
			used(3, 3.9, 7900)(i, r)
		}
	})
	if got := of(old).Advice; len(got) != 2 || got[0].Runs != 50 {
		t.Errorf("of a job that got smaller: %+v", got)
	}
}

func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	var runs []nimbus.Run
	for i := range 60 {
		c := class
		c.MemoryMiB += 1024 * i
		runs = append(runs, history(fmt.Sprint("job", i), 20, func(i int, r *nimbus.Run) {
			used(0.1, 0.2, 10)(i, r)
			r.Class = c
		})...)
	}
	if got := of(runs); len(got.Classes) != 50 || len(got.Advice) != 50 {
		t.Errorf("%d classes and %d pieces of advice", len(got.Classes), len(got.Advice))
	}
}
