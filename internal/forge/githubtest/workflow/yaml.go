package workflow

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// node is a value of the file that knows its line.
type node struct{ ast.Node }

func (n node) line() int {
	if n.Node == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 1
	}
	return n.GetToken().Position.Line
}

// entry is a key with its value.
type entry struct {
	key   string
	at    node
	value node
}

// reader walks the tree and keeps the first fault.
type reader struct {
	path string
	err  error
}

func (r *reader) failf(n node, format string, args ...any) {
	if r.err == nil {
		r.err = &Error{Path: r.path, Line: n.line(), Message: fmt.Sprintf(format, args...)}
	}
}

func parseYAML(path string, content []byte) (node, error) {
	file, err := parser.ParseBytes(content, 0)
	if err != nil {
		line := 1
		var bad yaml.Error
		if errors.As(err, &bad) && bad.GetToken() != nil {
			line = bad.GetToken().Position.Line
			err = errors.New(bad.GetMessage())
		}
		return node{}, &Error{Path: path, Line: line, Message: err.Error()}
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return node{}, &Error{Path: path, Line: 1, Message: "a workflow file is one YAML document"}
	}
	return node{file.Docs[0].Body}, nil
}

// entries returns the keys and values of a mapping.
func (r *reader) entries(n node) []entry {
	var values []*ast.MappingValueNode
	switch m := n.Node.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		r.failf(n, "here belongs a mapping (key: value)")
		return nil
	}
	var out []entry
	for _, v := range values {
		key := node{v.Key}
		if _, merge := v.Key.(*ast.MergeKeyNode); merge {
			r.failf(key, "merge keys (<<) are not supported")
		}
		out = append(out, entry{key: v.Key.GetToken().Value, at: key, value: node{v.Value}})
	}
	return out
}

// fields reads a mapping whose keys are known; any other is refused.
func (r *reader) fields(n node, known map[string]func(node)) {
	for _, e := range r.entries(n) {
		read, ok := known[e.key]
		if !ok {
			r.failf(e.at, "the key %q is not supported", e.key)
			continue
		}
		read(e.value)
	}
}

// items returns the values of a sequence.
func (r *reader) items(n node, most int) []node {
	s, ok := n.Node.(*ast.SequenceNode)
	if !ok {
		r.failf(n, "here belongs a list")
		return nil
	}
	if len(s.Values) > most {
		r.failf(n, "the list has more than %d items", most)
		return nil
	}
	out := make([]node, len(s.Values))
	for i, v := range s.Values {
		out[i] = node{v}
	}
	return out
}

// list reads a list of words, or one word alone.
func (r *reader) list(n node) []string {
	if _, ok := n.Node.(*ast.SequenceNode); !ok {
		return []string{r.template(n)}
	}
	var out []string
	for _, item := range r.items(n, maxJobs) {
		out = append(out, r.template(item))
	}
	return out
}

// template reads a scalar in which matrix values may stand: expand judges its
// expressions.
func (r *reader) template(n node) string {
	switch s := n.Node.(type) {
	case *ast.StringNode:
		return s.Value
	case *ast.LiteralNode:
		return s.Value.Value
	case *ast.NullNode:
		return ""
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value
	}
	r.failf(n, "here belongs a plain value")
	return ""
}

// text reads a scalar without expressions, but for a whole one (of an `if`).
func (r *reader) text(n node) string {
	s := r.template(n)
	if strings.Contains(s[min(len(s), 1):], "${{") {
		r.failf(n, "expressions are not supported here")
	}
	return s
}

// variable is a name that can stand in an environment.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// env reads variables.
func (r *reader) env(n node) map[string]string {
	out := map[string]string{}
	for _, e := range r.entries(n) {
		if !variable.MatchString(e.key) {
			r.failf(e.at, "%q is no name of a variable", e.key)
		}
		out[e.key] = r.template(e.value)
	}
	return out
}

func (r *reader) boolean(n node) bool {
	b, ok := n.Node.(*ast.BoolNode)
	if !ok {
		r.failf(n, "here belongs true or false")
		return false
	}
	return b.Value
}

func (r *reader) number(n node, most int) int {
	i, err := strconv.Atoi(r.text(n))
	if err != nil || i < 1 || i > most {
		r.failf(n, "here belongs a whole number from 1 to %d", most)
	}
	return i
}

// Keys returns the keys of the jobs without repetition, in the file's order.
func (w *Workflow) Keys() []string {
	var out []string
	for _, j := range w.Jobs {
		if !slices.Contains(out, j.Key) {
			out = append(out, j.Key)
		}
	}
	return out
}
