package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
)

// TestTrendsAreDrawn: a part without jobs is told apart from one without
// failures, a single failure from none, and many parts share a character.
func TestTrendsAreDrawn(t *testing.T) {
	t.Parallel()
	part := func(jobs, failed int) nimbus.TrendPart {
		return nimbus.TrendPart{JobsCount: nimbus.JobsCount{Jobs: jobs, Failed: failed}}
	}
	jobs, failing := trendWords([]nimbus.TrendPart{part(0, 0), part(1, 0), part(500, 1), part(1000, 500), part(100, 100)})
	if jobs != "·▂▅█▂" || failing != "·▁▂▅█" {
		t.Errorf("drawn as %s and %s", jobs, failing)
	}
	long := make([]nimbus.TrendPart, 169)
	long[168] = part(3, 3)
	jobs, failing = trendWords(long)
	if want := strings.Repeat("·", 28) + "█"; jobs != want || failing != want {
		t.Errorf("169 hours are drawn as %s and %s", jobs, failing)
	}
	if jobs, failing = trendWords(nil); jobs+failing != "" {
		t.Errorf("nothing is drawn as %s and %s", jobs, failing)
	}
}

// TestSummariesAreTables with what is left out counted; nobody's text moves the
// cursor.
func TestSummariesAreTables(t *testing.T) {
	t.Parallel()
	outcome := func(jobs, failed int) nimbus.JobsOutcome {
		return nimbus.JobsOutcome{JobsCount: nimbus.JobsCount{Jobs: jobs, Succeeded: jobs - failed, Failed: failed}, Runs: jobs, P50: 5 * time.Second, P95: 4 * time.Minute,
			Trend: []nimbus.TrendPart{{Start: time.Unix(0, 0).UTC(), JobsCount: nimbus.JobsCount{Jobs: jobs, Failed: failed}}}}
	}
	s := nimbus.Summary{
		SummaryWindow: nimbus.SummaryWindow{Since: time.Unix(0, 0).UTC(), Until: time.Unix(3600, 0).UTC(), Bucket: nimbus.JobBucketDay, CompleteSince: time.Unix(60, 0).UTC()},
		All:           outcome(10, 4), Values: []nimbus.ValueOutcome{{Value: "a\x1b[2J", JobsOutcome: outcome(6, 0)}, {JobsOutcome: outcome(3, 3)}},
		OtherValues: 1, Other: outcome(1, 1),
	}
	show := func(key string, s nimbus.Summary) (out, told []string) {
		t.Helper()
		var o, e bytes.Buffer
		if err := (&app{Streams: Streams{Out: &o, Err: &e}, root: &root{}}).printSummary(key, s); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(o.String()), "\n") {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
		return out, strings.Split(strings.TrimSpace(e.String()), "\n")
	}
	out, told := show("model", s)
	want := []string{
		"MODEL JOBS SUCCEEDED FAILED CANCELLED OPEN RUN p50/p95 TREND by day FAILING",
		"a [2J 6 6 0 0 0 5 s/4 min █ ▁",
		"- 3 0 3 0 0 5 s/4 min █ █",
		"(other values: 1) 1 0 1 0 0 5 s/4 min █ █",
		"(all) 10 6 4 0 0 5 s/4 min █ ▄",
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
	if len(told) != 1 || !strings.Contains(told[0], "only the newest 10 jobs") {
		t.Errorf("told: %q", told)
	}
	out, _ = show("", nimbus.Summary{SummaryWindow: s.SummaryWindow, All: outcome(1, 0), Keys: []nimbus.MetadataKey{{Key: "model", Jobs: 1, Values: 2}}, OtherKeys: 3})
	if got := strings.Join(out, "|"); !strings.HasSuffix(got, "|KEY JOBS VALUES|model 1 2|(other keys: 3)") {
		t.Error(got)
	}
	if out, told = show("model", nimbus.Summary{}); strings.Join(out, "") != "" || !strings.HasPrefix(told[0], "no jobs with model since") {
		t.Errorf("of none: %q %q", out, told)
	}
	raw, err := json.Marshal(viewSummary(s))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"complete_since":"1970-01-01T00:01:00Z"`, `"values":[{"value":"a\u001b[2J","jobs":6,"succeeded":6,`, `"p50_seconds":5`,
		`"other":{"jobs":1,`, `"trend":[{"start_at":"1970-01-01T00:00:00Z","jobs":10,`} {
		if !strings.Contains(string(raw), part) {
			t.Errorf("%s is not in %s", part, raw)
		}
	}
}

// TestMomentsMayBeDaysAgo: nobody counts hours.
func TestMomentsMayBeDaysAgo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"7d": 7 * 24 * time.Hour, "0d": 0, "90m": 90 * time.Minute} {
		var m moment
		if err := m.UnmarshalText([]byte(text)); err != nil || (time.Since(m.Time)-want).Abs() > time.Minute {
			t.Errorf("%s is %s, %v", text, m.Time, err)
		}
	}
	for _, text := range []string{"d", "-1d", "1.5d", "99999d", "7days"} {
		var m moment
		if err := m.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%s is %s", text, m.Time)
		}
	}
}
