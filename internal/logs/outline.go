package logs

import (
	"strings"

	"github.com/nimbus-ci/nimbus"
)

const (
	// maxSections bounds an outline: what comes later can't be folded.
	maxSections = 5000
	// maxTitle bounds the name of one of its sections, in bytes.
	maxTitle = 200
)

// SectionKind is what a section of a log is.
type SectionKind string

// Kinds of sections.
const (
	SectionStep  SectionKind = "step"
	SectionGroup SectionKind = "group"
)

// Section is a step or a group of a log.
type Section struct {
	Kind   SectionKind
	Number int32 // of its kind, from 1 within an attempt
	First  int64 // the line that begins and names it
	Last   int64 // its last line, 0 while it goes on
	Title  string
}

// Outline is the sections of a log whose lines are given to it in their order. Steps
// follow each other; groups may be in one another, and end with the step.
type Outline struct {
	Sections []Section
	Lines    int64 // up to which line it has looked

	step int   // place of the step that goes on, from 1; 0: none does, or it is left out
	open []int // places of the groups that go on, outermost first, 0 for one that is left out
	in   []int32
	// ended says that the last line reads as the end of the innermost group. Only the
	// next one tells whether it was: commands may have been stopped.
	ended bool
}

// Add looks at more lines.
func (o *Outline) Add(lines []nimbus.Line) {
	for _, l := range lines {
		o.add(l)
		o.Lines = l.Seq
	}
}

// Skip goes on behind a line: those up to it can't be read.
func (o *Outline) Skip(last int64) { o.Lines = last }

func (o *Outline) add(l nimbus.Line) {
	if l.Stream == nimbus.StreamStep {
		for len(o.open) > 0 {
			o.leave(l.Seq - 1)
		}
		o.ended = false
		o.end(o.step, l.Seq-1)
		o.step = o.begin(Section{Kind: SectionStep, Number: l.Step, First: l.Seq, Title: clip(l.Text)})
		return
	}
	if l.Stream == nimbus.StreamSystem {
		return
	}
	if n := len(o.in); o.ended && n > 0 {
		if o.ended = false; l.Group == o.in[n-1] {
			o.end(o.open[n-1], 0)
		} else {
			o.leave(l.Seq - 1)
		}
	}
	// Numbers of groups grow: who is in one with a lower number has left the others.
	for n := len(o.in); n > 0 && l.Group < o.in[n-1]; n-- {
		o.leave(l.Seq - 1)
	}
	if n := len(o.in); l.Group > 0 && (n == 0 || l.Group != o.in[n-1]) {
		o.open = append(o.open, o.begin(Section{Kind: SectionGroup, Number: l.Group, First: l.Seq, Title: clip(groupTitle(l.Text))}))
		o.in = append(o.in, l.Group)
		return
	}
	if n := len(o.in); n > 0 && (l.Stream == nimbus.StreamStdout || l.Stream == nimbus.StreamStderr) && endsGroup(l.Text) {
		o.ended = true
		o.end(o.open[n-1], l.Seq)
	}
}

// begin adds a section and returns its place, 0 where there are too many.
func (o *Outline) begin(s Section) int {
	if len(o.Sections) == maxSections {
		return 0
	}
	o.Sections = append(o.Sections, s)
	return len(o.Sections)
}

func (o *Outline) end(place int, last int64) {
	if place > 0 {
		o.Sections[place-1].Last = last
	}
}

// leave ends the innermost group.
func (o *Outline) leave(last int64) {
	n := len(o.open) - 1
	o.end(o.open[n], last)
	o.open, o.in = o.open[:n], o.in[:n]
}

// groupTitle is the name of a group, of the line that begins it: "::group::name" or
// "##[group]name".
func groupTitle(text string) string {
	text = strings.TrimLeft(text, " \t")
	for _, form := range []struct{ begins, ends string }{{"::group", "::"}, {"##[group", "]"}} {
		if len(text) < len(form.begins) || !strings.EqualFold(text[:len(form.begins)], form.begins) {
			continue
		}
		if _, title, ok := strings.Cut(text[len(form.begins):], form.ends); ok {
			return title
		}
	}
	return text
}

func endsGroup(text string) bool {
	text = strings.ToLower(strings.TrimLeft(text[:min(len(text), maxTitle)], " \t"))
	return strings.HasPrefix(text, "::endgroup::") || strings.HasPrefix(text, "##[endgroup]")
}

func clip(title string) string {
	return strings.ToValidUTF8(title[:min(len(title), maxTitle)], "")
}
