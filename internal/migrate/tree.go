package migrate

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/nimbus-ci/nimbus"
)

// tree is a value of the file; a nil Node is one that isn't there.
type tree struct {
	ast.Node

	anchors anchors
}

// anchors are what aliases stand for, by name.
type anchors map[string]ast.Node

// Visit implements ast.Visitor.
func (a anchors) Visit(n ast.Node) ast.Visitor {
	if anchor, ok := n.(*ast.AnchorNode); ok {
		a[anchor.Name.GetToken().Value] = anchor.Value
	}
	return a
}

func parse(path string, text []byte) (tree, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		where, message := path, err.Error()
		var bad yaml.Error
		if errors.As(err, &bad) && bad.GetToken() != nil {
			where, message = fmt.Sprintf("%s:%d", path, bad.GetToken().Position.Line), bad.GetMessage()
		}
		return tree{}, nimbus.Errorf(nimbus.CodeInvalid, "%s: %s", where, message)
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return tree{}, nimbus.Errorf(nimbus.CodeInvalid, "%s: a workflow file is one YAML document", path)
	}
	found := anchors{}
	ast.Walk(found, file.Docs[0].Body)
	weigh := scales{anchors: found, known: map[string]int{}}
	if weigh.nodes(file.Docs[0].Body) > mostNodes {
		return tree{}, nimbus.Errorf(nimbus.CodeTooLarge, "%s: what its aliases stand for has more than %d values, or itself in it", path, mostNodes)
	}
	return tree{file.Docs[0].Body, found}, nil
}

// mostNodes bounds the values of a file with its aliases written out, which can
// be exponentially more than are in it.
const mostNodes = 200_000

// scales count the values of a node with its aliases written out.
type scales struct {
	anchors anchors
	known   map[string]int // of what is behind an anchor
}

// nodes counts no further than a little over mostNodes.
func (s scales) nodes(n ast.Node) int {
	switch v := n.(type) {
	case *ast.MappingNode:
		total := 1
		for _, pair := range v.Values {
			total = min(total+s.nodes(pair), mostNodes+1)
		}
		return total
	case *ast.MappingValueNode:
		return min(1+s.nodes(v.Value), mostNodes+1)
	case *ast.SequenceNode:
		total := 1
		for _, item := range v.Values {
			total = min(total+s.nodes(item), mostNodes+1)
		}
		return total
	case *ast.AnchorNode:
		return s.nodes(v.Value)
	case *ast.TagNode:
		return s.nodes(v.Value)
	case *ast.AliasNode:
		name := v.Value.GetToken().Value
		if _, ok := s.known[name]; !ok {
			s.known[name] = mostNodes + 1 // for one that is in itself
			s.known[name] = s.nodes(s.anchors[name])
		}
		return s.known[name]
	}
	return 1
}

// pair is a key of a mapping with its value.
type pair struct {
	key   string
	line  int
	value tree
}

// of is another value of the same file.
func (t tree) of(n ast.Node) tree { return tree{n, t.anchors} }

func (t tree) pairs() (out []pair) {
	var values []*ast.MappingValueNode
	switch m := t.resolved().(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	}
	for _, v := range values {
		if token := v.Key.GetToken(); token != nil {
			out = append(out, pair{token.Value, token.Position.Line, t.of(v.Value)})
		}
	}
	return out
}

// get is the value of a key, and the line of the key.
func (t tree) get(key string) (tree, int) {
	for _, p := range t.pairs() {
		if p.key == key {
			return p.value, p.line
		}
	}
	return tree{}, 0
}

func (t tree) items() (out []tree) {
	if s, ok := t.resolved().(*ast.SequenceNode); ok {
		for _, v := range s.Values {
			out = append(out, t.of(v))
		}
	}
	return out
}

// text is a scalar's value; ok is false for anything else.
func (t tree) text() (value string, ok bool) {
	switch n := t.resolved().(type) {
	case *ast.LiteralNode:
		return n.Value.Value, true
	case ast.ScalarNode:
		if token := n.GetToken(); token != nil {
			return token.Value, true
		}
	}
	return "", false
}

func (t tree) line() int {
	if t.Node == nil || t.GetToken() == nil {
		return 0
	}
	return t.GetToken().Position.Line
}

// words are the scalars of a list, or one scalar alone; ok is false when there
// is anything else among them.
func (t tree) words() (out []string, ok bool) {
	if value, ok := t.text(); ok {
		return []string{value}, true
	}
	if _, list := t.resolved().(*ast.SequenceNode); !list {
		return nil, false
	}
	for _, item := range t.items() {
		value, ok := item.text()
		if !ok {
			return nil, false
		}
		out = append(out, value)
	}
	return out, true
}

// mostSteps bounds the way to a node: an alias may stand for itself.
const mostSteps = 16

// resolved is the node behind an anchor, an alias or a tag.
func (t tree) resolved() ast.Node {
	n := t.Node
	for range mostSteps {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.TagNode:
			n = v.Value
		case *ast.AliasNode:
			n = t.anchors[v.Value.GetToken().Value]
		default:
			return n
		}
	}
	return nil
}

// aliases counts how often each anchor is referred to.
type aliases map[string]int

// Visit implements ast.Visitor.
func (a aliases) Visit(n ast.Node) ast.Visitor {
	if alias, ok := n.(*ast.AliasNode); ok {
		a[alias.Value.GetToken().Value]++
	}
	return a
}
