package migrate

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// edit replaces the bytes from start to end.
type edit struct {
	start, end int
	text       string
}

func apply(text []byte, edits []edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	var out bytes.Buffer
	at := 0
	for _, e := range edits {
		out.Write(text[at:e.start])
		out.WriteString(e.text)
		at = e.end
	}
	out.Write(text[at:])
	return out.Bytes()
}

// source finds places of the tree in the text.
type source struct {
	text  []byte
	lines []int // offset of each line's beginning
}

func newSource(text []byte) source {
	s := source{text: text, lines: []int{0}}
	for i, b := range text {
		if b == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// offset is where a token begins. Columns count characters.
func (s source) offset(p *token.Position) (int, bool) {
	if p == nil || p.Line < 1 || p.Line > len(s.lines) {
		return 0, false
	}
	at := s.lines[p.Line-1]
	for column := 1; column < p.Column; column++ {
		_, size := utf8.DecodeRune(s.text[at:])
		if size == 0 {
			return 0, false
		}
		at += size
	}
	return at, true
}

// scalar is the range of a scalar in one line, quotes included.
func (s source) scalar(n ast.Node) (start, end int, ok bool) {
	t := n.GetToken()
	start, ok = s.offset(t.Position)
	if !ok || start >= len(s.text) {
		return 0, 0, false
	}
	rest := s.text[start:]
	switch quote := rest[0]; quote {
	case '\'', '"':
		for i := 1; i < len(rest) && rest[i] != '\n'; i++ {
			switch {
			case quote == '"' && rest[i] == '\\':
				i++
			case rest[i] == quote && quote == '\'' && i+1 < len(rest) && rest[i+1] == quote:
				i++
			case rest[i] == quote:
				return start, start + i + 1, true
			}
		}
		return 0, 0, false
	}
	if !bytes.HasPrefix(rest, []byte(t.Value)) {
		return 0, 0, false
	}
	return start, start + len(t.Value), true
}

// replaceValue writes text where a value of one line stands.
func (s source) replaceValue(value tree, text string) ([]edit, error) {
	if alias, ok := value.Node.(*ast.AliasNode); ok {
		return s.replaceAlias(value, alias, text)
	}
	if list, ok := value.Node.(*ast.SequenceNode); ok {
		if !list.IsFlowStyle {
			return nil, errPlace(value)
		}
		start, ok := s.offset(list.Start.Position)
		end, closed := s.offset(list.End.Position)
		if !ok || !closed || end >= len(s.text) || s.text[start] != '[' || s.text[end] != ']' {
			return nil, errPlace(value)
		}
		if bytes.IndexByte(s.text[start:end], '#') >= 0 { // a comment in it would be lost
			return nil, errPlace(value)
		}
		return []edit{{start, end + 1, text}}, nil
	}
	start, end, ok := s.scalar(value.Node)
	if !ok {
		return nil, errPlace(value)
	}
	return []edit{{start, end, text}}, nil
}

// replaceAlias writes text where a value stands that refers to another one.
func (s source) replaceAlias(value tree, alias *ast.AliasNode, text string) ([]edit, error) {
	name := "*" + alias.Value.GetToken().Value
	start, ok := s.offset(alias.GetToken().Position)
	if !ok || !bytes.HasPrefix(s.text[start:], []byte(name)) {
		return nil, errPlace(value)
	}
	return []edit{{start, start + len(name), text}}, nil
}

// replaceLabels writes labels as a value, in the style that it has.
func (s source) replaceLabels(value tree, labels []string) ([]edit, error) {
	list, ok := value.Node.(*ast.SequenceNode)
	if !ok || list.IsFlowStyle {
		return s.replaceValue(value, flow(labels))
	}
	// One item a line: the first is replaced, with the others below it, so that
	// what stands beside it stays there.
	first, last := list.Values[0], list.Values[len(list.Values)-1]
	start, end, ok := s.scalar(first)
	if !ok || first != last {
		return nil, errPlace(value)
	}
	indent := s.indent(start)
	return []edit{{start, end, plain(labels[0])}, {s.lineEnd(end), s.lineEnd(end), s.below(indent, labels[1:])}}, nil
}

func (s source) below(indent string, labels []string) string {
	newline := "\n"
	if bytes.Contains(s.text, []byte("\r\n")) {
		newline = "\r\n"
	}
	var out strings.Builder
	for _, l := range labels {
		fmt.Fprintf(&out, "%s%s- %s", newline, indent, plain(l))
	}
	return out.String()
}

func plain(label string) string { return strings.Trim(flow([]string{label}), "[]") }

// indent is what stands before the dash of an item.
func (s source) indent(at int) string {
	begin := bytes.LastIndexByte(s.text[:at], '\n') + 1
	dash := bytes.LastIndexByte(s.text[begin:at], '-')
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string(s.text[begin:begin+max(0, dash)]))
}

func (s source) lineEnd(at int) int {
	if i := bytes.IndexByte(s.text[at:], '\n'); i >= 0 {
		if end := at + i; s.text[end-1] == '\r' {
			return end - 1
		}
		return at + i
	}
	return len(s.text)
}

func errPlace(value tree) error {
	return fmt.Errorf("line %d: runs-on is written in a way that is not rewritten", value.line())
}
