package cli

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

// TestLogsTellWhatIsNotThere: lines that are damaged, a log that is gone, one that is cut,
// and one that is still being written are told apart, and only what was lost is an error.
func TestLogsTellWhatIsNotThere(t *testing.T) {
	t.Parallel()
	over := func(lines int64, complete bool) nimbus.Job {
		return nimbus.Job{ID: "job_1", State: nimbus.StateFinished, LogLines: lines, LogComplete: complete}
	}
	line := func(seq int64) any {
		return nimbus.Line{Seq: seq, Stream: nimbus.StreamStdout, Text: fmt.Sprint("text ", seq)}
	}
	damage := &client.DamagedLinesError{First: 2, Last: 4}
	for name, c := range map[string]struct {
		job   nimbus.Job
		lines []any
		out   string // of both streams
		code  nimbus.Code
	}{
		"whole":               {over(2, true), []any{line(1), line(2)}, "text 1\ntext 2\n", ""},
		"nothing was written": {over(0, true), nil, "", ""},
		"damaged":             {over(5, true), []any{line(1), damage, line(5)}, "text 1\nlines 2 to 4 are damaged on the server and can't be read\ntext 5\n", nimbus.CodeInternal},
		"gone":                {over(400, true), nil, "", nimbus.CodeNotFound},
		"its end is gone":     {over(9, true), []any{line(1)}, "text 1\nthe end of the log is missing: the server has it no longer\n", ""},
		"not all yet":         {nimbus.Job{ID: "job_1", State: nimbus.StateRunning}, []any{line(1)}, "text 1\nthis is not all yet: nimbus logs -f job_1\n", ""},
		"can't be read":       {over(2, true), []any{line(1), errors.New("the server is gone")}, "text 1\n", nimbus.CodeInternal},
	} {
		var out bytes.Buffer
		p := newLogPrinter(&app{root: &root{}, Streams: Streams{Out: &out, Err: &out}})
		err := p.all(said(c.lines))
		if err == nil {
			err = p.verdict(c.job)
		}
		if (err == nil) != (c.code == "") || err != nil && nimbus.ErrorCode(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if got := out.String(); got != c.out {
			t.Errorf("%s: it shows %q, want %q", name, got, c.out)
		}
	}
}

// said is a log: lines, and errors in their places.
func said(all []any) iter.Seq2[nimbus.Line, error] {
	return func(yield func(nimbus.Line, error) bool) {
		for _, each := range all {
			l, _ := each.(nimbus.Line)
			err, _ := each.(error)
			if !yield(l, err) {
				return
			}
		}
	}
}

// TestFollowTellsWhatIsGone: of a log that the server has no longer, by its last event.
func TestFollowTellsWhatIsGone(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newLogPrinter(&app{root: &root{}, Streams: Streams{Out: &out, Err: &out}})
	if err := p.event(client.LogEvent{Kind: client.LogComplete, Gone: 400}); err != nil {
		t.Fatal(err)
	}
	if err := p.verdict(nimbus.Job{}); nimbus.ErrorCode(err) != nimbus.CodeNotFound || !strings.Contains(err.Error(), "400 lines") {
		t.Errorf("a log that is gone: %v", err)
	}
}
