package report_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/report"
)

// TestASummaryCountsByValueAndDay: how jobs ended, how long they ran, and when
// they were admitted.
func TestASummaryCountsByValueAndDay(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	w := nimbus.SummaryWindow{Since: noon, Until: noon.Add(48 * time.Hour), Bucket: nimbus.JobBucketDay}
	s := report.NewSummary("model")
	for _, j := range []struct {
		value  string
		after  time.Duration
		result nimbus.Result
		ran    time.Duration
	}{
		{"a", 0, nimbus.ResultSuccess, 3 * time.Second},
		{"a", 11 * time.Hour, nimbus.ResultFailure, time.Second},
		{"a", 12 * time.Hour, nimbus.ResultTimedOut, 2 * time.Second},
		{"a", 47 * time.Hour, nimbus.ResultLost, -1},
		{"", time.Hour, nimbus.ResultCancelled, 0},
		{"", 49 * time.Hour, "", -1}, // by a clock that is ahead
	} {
		s.Add(nimbus.JobOutcome{AdmittedAt: noon.Add(j.after), Result: j.result, Ran: j.ran, Metadata: map[string]string{"model": j.value}})
	}
	day := func(n int, c nimbus.JobsCount) nimbus.TrendPart {
		return nimbus.TrendPart{Start: time.Date(2026, 5, n, 0, 0, 0, 0, time.UTC), JobsCount: c}
	}
	want := nimbus.Summary{
		SummaryWindow: w,
		All: nimbus.JobsOutcome{JobsCount: nimbus.JobsCount{Jobs: 6, Succeeded: 1, Failed: 3, Cancelled: 1, Open: 1}, Runs: 4, P50: time.Second, P95: 3 * time.Second,
			Trend: []nimbus.TrendPart{day(1, nimbus.JobsCount{Jobs: 3, Succeeded: 1, Failed: 1, Cancelled: 1}), day(2, nimbus.JobsCount{Jobs: 1, Failed: 1}), day(3, nimbus.JobsCount{Jobs: 2, Failed: 1, Open: 1})}},
		Values: []nimbus.ValueOutcome{
			{Value: "a", JobsOutcome: nimbus.JobsOutcome{JobsCount: nimbus.JobsCount{Jobs: 4, Succeeded: 1, Failed: 3}, Runs: 3, P50: 2 * time.Second, P95: 3 * time.Second,
				Trend: []nimbus.TrendPart{day(1, nimbus.JobsCount{Jobs: 2, Succeeded: 1, Failed: 1}), day(2, nimbus.JobsCount{Jobs: 1, Failed: 1}), day(3, nimbus.JobsCount{Jobs: 1, Failed: 1})}}},
			{JobsOutcome: nimbus.JobsOutcome{JobsCount: nimbus.JobsCount{Jobs: 2, Cancelled: 1, Open: 1}, Runs: 1,
				Trend: []nimbus.TrendPart{day(1, nimbus.JobsCount{Jobs: 1, Cancelled: 1}), day(2, nimbus.JobsCount{}), day(3, nimbus.JobsCount{Jobs: 1, Open: 1})}}},
		},
	}
	if diff := cmp.Diff(want, s.Of(w)); diff != "" {
		t.Error(diff)
	}
}

// TestASummaryIsBounded: values and keys beyond a bound are counted, not told.
func TestASummaryIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	w := nimbus.SummaryWindow{Since: now.Add(-7 * 24 * time.Hour), Until: now, Bucket: nimbus.JobBucketHour}
	by, all := report.NewSummary("k"), report.NewSummary("")
	for i := range 2000 {
		j := nimbus.JobOutcome{AdmittedAt: now.Add(-time.Hour), Result: nimbus.ResultSuccess, Ran: -1,
			Metadata: map[string]string{"k": fmt.Sprint(min(i, 24)), "same": "", fmt.Sprint("own", i): ""}}
		by.Add(j)
		all.Add(j)
	}
	got := by.Of(w)
	if len(got.Values) != 20 || got.Values[0].Value != "24" || got.Values[0].Jobs != 1976 || got.Values[1].Value != "0" || got.OtherValues != 5 || got.Other.Jobs != 5 ||
		got.All.Jobs != 2000 || len(got.All.Trend) != 168 || len(got.Other.Trend) != 168 || got.Other.Trend[167].Jobs != 5 {
		t.Errorf("by value: %d values and %d others of %d jobs", len(got.Values), got.OtherValues, got.Other.Jobs)
	}
	got = all.Of(w)
	if len(got.Keys) != 50 || got.OtherKeys != 950 || len(got.Values) != 0 {
		t.Fatalf("%d keys and %d others", len(got.Keys), got.OtherKeys)
	}
	if diff := cmp.Diff([]nimbus.MetadataKey{{Key: "k", Jobs: 2000, Values: 25}, {Key: "same", Jobs: 2000, Values: 1}}, got.Keys[:2]); diff != "" {
		t.Error(diff)
	}
	empty := report.NewSummary("k").Of(w)
	if empty.All.Jobs != 0 || len(empty.All.Trend) != 168 || len(empty.Values) != 0 || empty.OtherValues != 0 {
		t.Errorf("of no jobs: %+v", empty.All.JobsCount)
	}
}
