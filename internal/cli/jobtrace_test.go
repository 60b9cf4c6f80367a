package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// TestWaterfallOfOddSpans: of spans that end before they begin, and of those that are
// each other's parents.
func TestWaterfallOfOddSpans(t *testing.T) {
	t.Parallel()
	at := func(ms int) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(ms)) }
	span := func(id, parent string, from, to int) nimbus.Span {
		return nimbus.Span{TraceID: "t", SpanID: id, ParentID: parent, Name: id, Start: at(from), End: at(to)}
	}
	job, run := span("job", "", 0, 1000), span("run", "job", 100, 900)
	job.Lifecycle, run.Lifecycle = true, true
	var out bytes.Buffer
	a := &app{Streams: Streams{Out: &out, Err: &out}}
	spans := []nimbus.Span{job, run, span("a", "b", 200, 300), span("b", "c", 210, 300), span("c", "a", 220, 230), span("self", "self", 230, 240), span("odd", "run", 500, -500)}
	if err := a.showTrace(nimbus.Trace{Spans: spans}, at(1000)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		if name, rest, ok := strings.Cut(strings.TrimRight(line, "\n"), " ·"); ok || strings.Contains(line, "█") {
			name, _, _ = strings.Cut(name, "█")
			_, took, _ := strings.Cut(rest, " ")
			got = append(got, strings.TrimRight(name, " ")+":"+strings.TrimSpace(took))
		}
	}
	want := []string{"job:", "  run:800.0 ms", "    a:100.0 ms", "      c:10.0 ms", "        b:90.0 ms", "    self:10.0 ms", "    odd:0.0 ms  (it ends before it begins)"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s\nof\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), out.String())
	}
	if rows := nest(spans[2:]); len(rows) != 5 || rows[0].depth != 0 {
		t.Errorf("without a run: %v", rows)
	}
}

// TestTelemetryIsReadable: numbers have their digits, units that say nothing are left
// out, and a time that nobody said is none.
func TestTelemetryIsReadable(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &app{Streams: Streams{Out: &out, Err: &out}}
	at := time.Unix(1_700_000_000, 0)
	exact := int64(1<<53 + 1)
	page := nimbus.TelemetryPage{Points: []nimbus.MetricPoint{
		{At: at, Name: "largest", Type: "sum", Value: 1 << 63, Unit: "By"}, {At: at, Name: "ratio", Type: "gauge", Value: 1.5, Unit: "1"}, {Name: "huge", Type: "gauge", Value: 1e300},
		{At: at, Name: "some", Type: "histogram", Value: 12_345_678, Count: 3, Unit: "ms"},
		{At: at, Name: "exact", Type: "sum", Value: 1 << 53, Int: &exact, Unit: "By"},
	}}
	err := a.showTelemetry("metrics", page)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"TIME (UTC) NAME TYPE VALUE ATTRIBUTES", "22:13:20.000 largest sum 9223372036854776000 By", "22:13:20.000 ratio gauge 1.5", "- huge gauge 1e+300", "22:13:20.000 some histogram 12345678 in 3 ms", "22:13:20.000 exact sum 9007199254740993 By"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	out.Reset()
	if err := a.printJSON(viewTelemetry(page)); err != nil || strings.Count(out.String(), `"int_value"`) != 1 || !strings.Contains(out.String(), `"int_value":"9007199254740993"`) {
		t.Errorf("%v; as JSON\n%s", err, &out)
	}
}
