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
type tree struct{ ast.Node }

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
	return tree{file.Docs[0].Body}, nil
}

// pair is a key of a mapping with its value.
type pair struct {
	key   string
	line  int
	value tree
}

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
			out = append(out, pair{token.Value, token.Position.Line, tree{v.Value}})
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
			out = append(out, tree{v})
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

// resolved is the node behind an anchor or a tag.
func (t tree) resolved() ast.Node {
	n := t.Node
	for {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.TagNode:
			n = v.Value
		default:
			return n
		}
	}
}
