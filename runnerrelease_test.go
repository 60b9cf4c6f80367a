package nimbus

import (
	"strings"
	"testing"
	"time"
)

func TestRunnerStanding(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return time.Date(2026, 9, n, 0, 0, 0, 0, time.UTC) }
	known := RunnerReleases{Releases: []RunnerRelease{ // not in order, as after a fix of an old line
		{"2.336.1", day(12)}, {"2.337.0", day(10)}, {"2.336.0", day(4)}, {"2.335.0", day(1)}, {"nightly", day(20)},
	}}
	for version, want := range map[string]RunnerStanding{
		"2.337.0":       {Latest: "2.337.0"},
		"2.338.0":       {Latest: "2.337.0"}, // ahead of what was told
		"2.336.1":       {Latest: "2.337.0", NewerSince: day(10), RefusedAt: day(10).Add(RunnerGrace)},
		"2.336.0":       {Latest: "2.337.0", NewerSince: day(10), RefusedAt: day(10).Add(RunnerGrace)},
		"2.335.0":       {Latest: "2.337.0", NewerSince: day(4), RefusedAt: day(4).Add(RunnerGrace)}, // the first newer one counts, not the latest
		"2.9.0":         {Latest: "2.337.0", NewerSince: day(1), RefusedAt: day(1).Add(RunnerGrace)}, // by number, not by letter
		"1.0.0-standin": {Latest: "2.337.0"},
		"":              {Latest: "2.337.0"},
		"2.337":         {Latest: "2.337.0"},
	} {
		if got := known.Standing(version); got != want {
			t.Errorf("%s: %+v, want %+v", version, got, want)
		}
	}
	if got := (RunnerReleases{}).Standing("2.337.0"); got != (RunnerStanding{}) {
		t.Errorf("without releases: %+v", got)
	}
	newer := RunnerReleases{Releases: []RunnerRelease{{"2.340.0", day(2)}}}
	if got := WorstRunnerStanding("2.336.0", []RunnerReleases{{}, known, newer}); got != newer.Standing("2.336.0") {
		t.Errorf("the worst is %+v", got)
	}
	if got := WorstRunnerStanding("2.340.0", []RunnerReleases{known, newer}); got.Latest == "" || !got.RefusedAt.IsZero() {
		t.Errorf("the latest everywhere is %+v", got)
	}
}

// TestRunnerVersionsOfHosts: what a host says is shown to people.
func TestRunnerVersionsOfHosts(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]Code{
		"": "", "2.337.0": "", "2.337.0\n": CodeInvalid, "\x1b[31m": CodeInvalid, "a b": CodeInvalid, strings.Repeat("9", MaxWordBytes+1): CodeInvalid,
	} {
		if got := ErrorCode(Inventory{CPUs: 1, MemoryMiB: 1, RunnerVersion: version}.Check()); got != want {
			t.Errorf("%q: %q, want %q", version, got, want)
		}
	}
}
