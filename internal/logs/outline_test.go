package logs_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/lines"
)

type clock struct{}

func (clock) Now() time.Time { return time.Unix(1_700_000_000, 0) }

// outlined is what a job wrote, and its outline.
func outlined(text string) (all []nimbus.Line, o logs.Outline) {
	s := lines.NewSplitter(clock{}, 0, lines.State{})
	all = append(s.Write(nimbus.StreamStdout, []byte(text)), s.Flush()...)
	o.Add(all)
	return all, o
}

func TestOutline(t *testing.T) {
	t.Parallel()
	all, o := outlined(`before
::nimbus-step::First
::group::Outer
in
##[group]Inner name
deep
::stop-commands::t
::endgroup::
still deep
::t::
::endgroup::
::endgroup::
::group::At once
x
::endgroup::
between
::group title=x::With properties
unfinished
::nimbus-step::Second
::group::
goes on`)
	want := []logs.Section{
		{Kind: logs.SectionStep, Number: 1, First: 2, Last: 18, Title: "First"},
		{Kind: logs.SectionGroup, Number: 1, First: 3, Last: 12, Title: "Outer"},
		{Kind: logs.SectionGroup, Number: 2, First: 5, Last: 11, Title: "Inner name"},
		{Kind: logs.SectionGroup, Number: 3, First: 13, Last: 15, Title: "At once"},
		{Kind: logs.SectionGroup, Number: 4, First: 17, Last: 18, Title: "With properties"},
		{Kind: logs.SectionStep, Number: 2, First: 19, Title: "Second"},
		{Kind: logs.SectionGroup, Number: 5, First: 20},
	}
	if diff := cmp.Diff(want, o.Sections); diff != "" {
		t.Error(diff)
	}
	if o.Lines != int64(len(all)) {
		t.Errorf("it has looked at %d lines of %d", o.Lines, len(all))
	}
	// In pieces it is the same.
	for cut := range all {
		var pieces logs.Outline
		pieces.Add(all[:cut])
		pieces.Add(all[cut:])
		if diff := cmp.Diff(o, pieces, cmpopts.IgnoreUnexported(logs.Outline{})); diff != "" {
			t.Fatalf("cut at %d: %s", cut, diff)
		}
	}
}

// TestOutlineIsBounded: a job that begins groups without end has a log like any other.
func TestOutlineIsBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&b, "::group::%d%s\nx\n::endgroup::\n", i, strings.Repeat("€", 1000))
	}
	_, o := outlined(b.String())
	if len(o.Sections) != 5000 || o.Lines != 60_000 {
		t.Errorf("%d sections of %d lines", len(o.Sections), o.Lines)
	}
	for _, s := range o.Sections {
		if len(s.Title) > 200 || s.Last != s.First+2 {
			t.Fatalf("%+v", s)
		}
	}
}
