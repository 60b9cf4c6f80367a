package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type jobTraceCmd struct {
	ID    string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
	Limit int    `within:"1..10000" help:"How many spans of its processes, at most; those that came first." default:"2000" placeholder:"N"`
}

func (*jobTraceCmd) Help() string {
	return "The parts of a job's life, its steps, and below them the spans that its processes sent to the receiver of OTLP in its sandbox, as one waterfall.\n\n" +
		usage("nimbus job trace last", "nimbus job trace job_01jd8w6j3m5y2x4k7q9r1t3v5z --json | jq '.spans[] | select(.status == \"error\")'")
}

func (c *jobTraceCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	t, err := cl.Trace(ctx, j.ID, c.Limit)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(viewTrace(t))
	}
	return a.showTrace(t, time.Now())
}

// Widths of a waterfall, in characters.
const (
	barWidth  = 40
	nameWidth = 44
	mostDepth = 12 // of what is moved to the right
)

// showTrace prints a waterfall.
func (a *app) showTrace(t nimbus.Trace, now time.Time) error {
	if len(t.Spans) == 0 {
		a.info("nothing is known of its time yet")
		return nil
	}
	rows := nest(t.Spans)
	from, to := extent(t.Spans, now)
	for _, r := range rows {
		indent := strings.Repeat("  ", min(r.depth, mostDepth))
		name := fit(indent+terminal.OneLine(r.span.Name), nameWidth)
		took := "…"
		odd := !r.span.End.IsZero() && r.span.End.Before(r.span.Start) // of a clock that was set back
		if !r.span.End.IsZero() {
			took = milliseconds(max(r.span.End.Sub(r.span.Start), 0))
		}
		b := bar(r.span, from, to, now)
		switch {
		case r.span.Status == "error":
			name, b = a.style.Bad(name), a.style.Bad(b)
		case r.span.Lifecycle:
			b = a.style.Quiet(b)
		default:
			b = a.style.Good(b)
		}
		fmt.Fprintf(a.Out, "%s %s %12s", name, b, took)
		if odd {
			fmt.Fprint(a.Out, "  (it ends before it begins)")
		}
		if m := terminal.OneLine(r.span.StatusMessage); m != "" {
			fmt.Fprintf(a.Out, "  %s", m)
		}
		fmt.Fprintln(a.Out)
	}
	fmt.Fprintln(a.Out)
	a.info("trace %s: %s of its processes, %s, %s", t.ID, terminal.Count(int(t.Sent), "span"), terminal.Count(int(t.Logs), "log record"), terminal.Count(int(t.Points), "metric point"))
	if t.LeftOut > 0 {
		a.info("%s are not shown: --limit shows more, up to 10000 with 16 MiB of text", terminal.Count(int(t.LeftOut), "span"))
	}
	return nil
}

// nested is a span with how deep it is.
type nested struct {
	span  nimbus.Span
	depth int
}

// nest orders spans as a tree, each below its parent. What has none here, as where
// its parent was never sent, is below the job's run, and so is the first of those
// that are each other's parents. Whatever a job says, each span is there once.
func nest(spans []nimbus.Span) []nested {
	here, children, run := map[string]bool{}, map[string][]int{}, ""
	key := func(s nimbus.Span) string { return s.TraceID + s.SpanID }
	for _, s := range spans {
		here[key(s)] = true
		if s.Lifecycle && s.Name == nimbus.RunSpan {
			run = key(s)
		}
	}
	var roots []int
	for i, s := range spans {
		parent := s.TraceID + s.ParentID
		switch {
		case s.ParentID != "" && here[parent] && parent != key(s):
			children[parent] = append(children[parent], i)
		case !s.Lifecycle && run != "":
			children[run] = append(children[run], i)
		default:
			roots = append(roots, i)
		}
	}
	for _, i := range lost(spans, roots, func(i int) []int { return children[key(spans[i])] }) {
		if run == "" {
			roots = append(roots, i)
		} else {
			children[run] = append(children[run], i)
		}
	}
	slices.Sort(children[run]) // by when they began, as all
	var rows []nested
	done := make([]bool, len(spans))
	for _, root := range roots {
		done[root] = true
		for stack := []nested{{spans[root], 0}}; len(stack) > 0; {
			top := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			rows = append(rows, top)
			for _, i := range slices.Backward(children[key(top.span)]) {
				if !done[i] {
					done[i] = true
					stack = append(stack, nested{spans[i], top.depth + 1})
				}
			}
		}
	}
	return rows
}

// lost are the first of those spans that no root leads to, since they are each
// other's parents.
func lost(spans []nimbus.Span, roots []int, children func(int) []int) (first []int) {
	reached := make([]bool, len(spans))
	reach := func(from int) {
		reached[from] = true
		for stack := []int{from}; len(stack) > 0; {
			top := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for _, i := range children(top) {
				if !reached[i] {
					reached[i] = true
					stack = append(stack, i)
				}
			}
		}
	}
	for _, i := range roots {
		reach(i)
	}
	for i := range spans {
		if !reached[i] {
			first = append(first, i)
			reach(i)
		}
	}
	return first
}

// extent is the time that spans have in common. One of a clock that is wrong does
// not make it longer: the job's own life is what counts.
func extent(spans []nimbus.Span, now time.Time) (from, to time.Time) {
	life := slices.ContainsFunc(spans, func(s nimbus.Span) bool { return s.Lifecycle })
	for _, s := range spans {
		if life && !s.Lifecycle || s.Start.IsZero() {
			continue
		}
		end := s.End
		if end.IsZero() {
			end = now
		}
		if from.IsZero() || s.Start.Before(from) {
			from = s.Start
		}
		if end.After(to) {
			to = end
		}
	}
	return from, to
}

// bar shows when a span was: it has one character at least.
func bar(s nimbus.Span, from, to, now time.Time) string {
	end := s.End
	if end.IsZero() {
		end = now
	}
	at := func(t time.Time) int {
		if !to.After(from) {
			return 0
		}
		return min(max(int(float64(t.Sub(from))/float64(to.Sub(from))*barWidth), 0), barWidth)
	}
	first := min(at(s.Start), barWidth-1)
	n := max(at(end)-first, 1)
	return strings.Repeat("·", first) + strings.Repeat("█", n) + strings.Repeat("·", barWidth-first-n)
}

// fit cuts or fills a text to a width.
func fit(text string, width int) string {
	n := utf8.RuneCountInString(text)
	if n > width {
		return string([]rune(text)[:width-1]) + "…"
	}
	return text + strings.Repeat(" ", width-n)
}

type traceView struct {
	TraceID string     `json:"trace_id"`
	Spans   []spanView `json:"spans"`
	Sent    int64      `json:"sent"`
	LeftOut int64      `json:"left_out"`
	Logs    int64      `json:"logs"`
	Points  int64      `json:"points"`
}

type spanView struct {
	TraceID       string            `json:"trace_id"`
	SpanID        string            `json:"span_id"`
	ParentSpanID  string            `json:"parent_span_id,omitempty"`
	Name          string            `json:"name"`
	Kind          string            `json:"kind"`
	Start         time.Time         `json:"start"`
	End           *time.Time        `json:"end,omitempty"`
	Status        string            `json:"status,omitempty"`
	StatusMessage string            `json:"status_message,omitempty"`
	Service       string            `json:"service,omitempty"`
	Scope         string            `json:"scope,omitempty"`
	Attributes    map[string]string `json:"attributes,omitempty"`
	Events        []spanEventView   `json:"events,omitempty"`
	Lifecycle     bool              `json:"lifecycle,omitempty"`
	AttemptID     string            `json:"attempt_id,omitempty"`
}

type spanEventView struct {
	Name       string            `json:"name"`
	At         time.Time         `json:"at"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

func viewTrace(t nimbus.Trace) traceView {
	v := traceView{TraceID: t.ID, Spans: []spanView{}, Sent: t.Sent, LeftOut: t.LeftOut, Logs: t.Logs, Points: t.Points}
	for _, s := range t.Spans {
		o := spanView{TraceID: s.TraceID, SpanID: s.SpanID, ParentSpanID: s.ParentID, Name: s.Name, Kind: s.Kind, Start: s.Start, Status: s.Status, StatusMessage: s.StatusMessage,
			Service: s.Service, Scope: s.Scope, Attributes: s.Attributes, Lifecycle: s.Lifecycle, AttemptID: s.AttemptID}
		if !s.End.IsZero() {
			o.End = &s.End
		}
		for _, e := range s.Events {
			o.Events = append(o.Events, spanEventView(e))
		}
		v.Spans = append(v.Spans, o)
	}
	return v
}
