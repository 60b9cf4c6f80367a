package logs

import (
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of a query.
const (
	// MaxPage is the most lines that a page has; a Limit of 0 stands for it.
	MaxPage = 1000
	// MaxPageText is about how many bytes of text a page has at most.
	MaxPageText = 4 << 20
	// maxText bounds what is looked for, and maxProgram what becomes of a pattern:
	// RE2 takes time for each byte of text and each instruction.
	maxText    = 1000
	maxProgram = 2000
)

// Position is a line among all of an org, as searches go through them: newest
// attempts first, the lines of each in their order.
type Position struct {
	AttemptID string
	Seq       int64
}

// String is what ParsePosition reads.
func (p Position) String() string { return p.AttemptID + ":" + strconv.FormatInt(p.Seq, 10) }

// EndOf is after all lines of an attempt.
func EndOf(attemptID string) Position { return Position{AttemptID: attemptID, Seq: math.MaxInt64} }

// ParsePosition reads where a page ended. "" is before all. Codes: invalid.
func ParsePosition(text string) (Position, error) {
	if text == "" {
		return Position{}, nil
	}
	attempt, number, _ := strings.Cut(text, ":")
	seq, err := strconv.ParseInt(number, 10, 64)
	if err != nil || seq < 0 || nimbus.CheckID(nimbus.PrefixAttempt, attempt) != nil {
		return Position{}, nimbus.Errorf(nimbus.CodeInvalid, "%.100q is no place in a search: give what the page before said", text)
	}
	return Position{AttemptID: attempt, Seq: seq}, nil
}

// From is the first line of an attempt that comes after the position, 0 if none
// does.
func (p Position) From(attemptID string) int64 {
	switch {
	case p.AttemptID == "" || attemptID < p.AttemptID:
		return 1
	case attemptID == p.AttemptID && p.Seq < math.MaxInt64:
		return p.Seq + 1
	}
	return 0
}

// Matcher tells which lines a query wants. It is safe for concurrent use.
type Matcher struct {
	Query   Query
	After   Position
	pattern *regexp.Regexp
	literal string // what a line must hold for the pattern to match; may be ""
	streams []nimbus.Stream
}

// Compile checks a query, gives it a Limit, and returns what it asks for. Codes:
// invalid.
func (q Query) Compile() (*Matcher, error) {
	if len(q.Text) > maxText {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "what is looked for has %d bytes, at most %d", len(q.Text), maxText)
	}
	if strings.Contains(q.Text, "\n") {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "a search is for what is in one line: look for one line of the text")
	}
	if q.Limit < 0 || q.Limit > MaxPage {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "a page has 1 to %d lines", MaxPage)
	}
	if q.Step < 0 || q.Level > LevelError {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "there is no such step or level")
	}
	if q.Limit == 0 {
		q.Limit = MaxPage
	}
	after, err := ParsePosition(q.After)
	if err != nil {
		return nil, err
	}
	m := &Matcher{Query: q, After: after, streams: slices.Clone(q.Streams), literal: q.Text}
	if q.Pattern {
		if m.pattern, err = compile(q.Text); err != nil {
			return nil, err
		}
		m.literal, _ = m.pattern.LiteralPrefix()
	}
	return m, nil
}

// compile reads a pattern and bounds what a byte of text costs with it.
func compile(text string) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the pattern: %v", err)
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the pattern: %v", err)
	}
	if len(program.Inst) > maxProgram {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the pattern is too large: use smaller counts in {}")
	}
	pattern, err := regexp.Compile(text)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the pattern: %v", err)
	}
	return pattern, nil
}

// Literal is what the text of each wanted line holds; "" if that isn't known.
func (m *Matcher) Literal() string { return m.literal }

// Text tells whether a line's text is wanted.
func (m *Matcher) Text(text string) bool {
	if m.pattern != nil {
		return m.pattern.MatchString(text)
	}
	return strings.Contains(text, m.Query.Text)
}

// Line tells whether a line is wanted but for its text.
func (m *Matcher) Line(l nimbus.Line, level Level) bool {
	q := m.Query
	return level >= q.Level && (q.Step == 0 || l.Step == q.Step) &&
		(q.Since.IsZero() || !l.At.Before(q.Since)) && (q.Until.IsZero() || l.At.Before(q.Until)) &&
		(len(m.streams) == 0 || slices.Contains(m.streams, l.Stream))
}
