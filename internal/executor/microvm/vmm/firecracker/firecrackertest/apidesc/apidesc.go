// Package apidesc holds Firecracker's own description of its API, and checks
// requests and answers against it. See README.md for where it comes from.
package apidesc

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed testdata/firecracker.yaml
var description []byte

// load parses the description once; what it returns is never written to.
var load = sync.OnceValues(parse)

// Operation is a method on a path.
type Operation struct {
	ID     string // "putGuestDriveByID"
	Method string
	Path   string // "/drives/{drive_id}"
	// Refusals are the error answers that it describes by number: 400, 404.
	Refusals []int

	body         *jsonschema.Schema // nil: it takes none
	bodyRequired bool
	answers      map[int]*jsonschema.Schema // nil values: no body
	other        *jsonschema.Schema
}

// Operations returns all operations, sorted by path and method.
func Operations() ([]*Operation, error) { return load() }

// Find returns the operation of a request, nil when there is none.
func Find(method, path string) (*Operation, error) {
	all, err := load()
	if err != nil {
		return nil, err
	}
	for _, op := range all {
		if op.Method == method && matches(op.Path, path) {
			return op, nil
		}
	}
	return nil, nil
}

// matches compares segments; one in braces stands for any.
func matches(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(w, g string) bool { return w == g || strings.HasPrefix(w, "{") && g != "" })
}

// CheckRequest checks a request's body. The error is a *ViolationError where the body
// is not what the description wants.
func (o *Operation) CheckRequest(body []byte) error {
	if len(body) == 0 {
		if o.bodyRequired {
			return &ViolationError{Kind: Empty}
		}
		return nil
	}
	if o.body == nil {
		return &ViolationError{Kind: Unwanted}
	}
	return check(o.body, body)
}

// CheckAnswer checks the answer to a request.
func (o *Operation) CheckAnswer(status int, body []byte) error {
	schema, described := o.answers[status]
	switch {
	case !described && status < http.StatusBadRequest:
		return fmt.Errorf("%s: answer %d is not described", o.ID, status)
	case !described:
		schema = o.other
	}
	if schema == nil {
		if len(body) > 0 {
			return fmt.Errorf("%s: answer %d has a body: %s", o.ID, status, body)
		}
		return nil
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return fmt.Errorf("%s: answer %d: %w", o.ID, status, err)
	}
	body, err := json.Marshal(withoutNulls(value))
	if err != nil {
		return fmt.Errorf("%s: answer %d: %w", o.ID, status, err)
	}
	if err := check(schema, body); err != nil {
		return fmt.Errorf("%s: answer %d: %w", o.ID, status, err)
	}
	return nil
}

// withoutNulls leaves out what is null: Firecracker writes that for what is not
// there, which its description does not say.
func withoutNulls(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			if inner == nil {
				delete(v, key)
				continue
			}
			v[key] = withoutNulls(inner)
		}
	case []any:
		for i, inner := range v {
			v[i] = withoutNulls(inner)
		}
	}
	return value
}

func check(schema *jsonschema.Schema, body []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return &ViolationError{Kind: Malformed, Detail: err.Error()}
	}
	err = schema.Validate(value)
	if invalid, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		return violation(invalid)
	}
	return err
}

// document is the part of Swagger 2.0 that the description uses.
type document struct {
	Paths       map[string]map[string]operation `json:"paths"`
	Definitions map[string]any                  `json:"definitions"`
}

type operation struct {
	ID         string `json:"operationId"`
	Parameters []struct {
		In       string `json:"in"`
		Required bool   `json:"required"`
		Schema   any    `json:"schema"`
	} `json:"parameters"`
	Responses map[string]struct {
		Schema any `json:"schema"`
	} `json:"responses"`
}

func parse() ([]*Operation, error) {
	raw, err := yaml.YAMLToJSON(description)
	if err != nil {
		return nil, fmt.Errorf("read description: %w", err)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("read description: %w", err)
	}
	for _, definition := range doc.Definitions {
		closeObjects(definition)
	}
	c := &compiler{definitions: doc.Definitions}
	var all []*Operation
	for path, methods := range doc.Paths {
		for method, o := range methods {
			op, err := c.operation(strings.ToUpper(method), path, o)
			if err != nil {
				return nil, fmt.Errorf("read description: %s %s: %w", method, path, err)
			}
			all = append(all, op)
		}
	}
	slices.SortFunc(all, func(a, b *Operation) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	return all, nil
}

// closeObjects has every object refuse what it does not describe, as Firecracker
// does, unless it says that it is open.
func closeObjects(schema any) {
	s, ok := schema.(map[string]any)
	if !ok {
		return
	}
	closeObjects(s["items"])
	properties, ok := s["properties"].(map[string]any)
	if !ok {
		return
	}
	for property := range maps.Values(properties) {
		closeObjects(property)
	}
	if _, said := s["additionalProperties"]; !said {
		s["additionalProperties"] = false
	}
}

// compiler makes schemas that can refer to the definitions.
type compiler struct {
	definitions map[string]any
	made        int
}

func (c *compiler) operation(method, path string, o operation) (*Operation, error) {
	op := &Operation{ID: o.ID, Method: method, Path: path, answers: map[int]*jsonschema.Schema{}}
	var err error
	for _, p := range o.Parameters {
		if p.In != "body" {
			continue
		}
		op.bodyRequired = p.Required
		if op.body, err = c.schema(p.Schema); err != nil {
			return nil, err
		}
	}
	for status, response := range o.Responses {
		schema, err := c.schema(response.Schema)
		if err != nil {
			return nil, err
		}
		if status == "default" {
			op.other = schema
			continue
		}
		number, err := strconv.Atoi(status)
		if err != nil {
			return nil, fmt.Errorf("answer %q: %w", status, err)
		}
		op.answers[number] = schema
		if number >= http.StatusBadRequest {
			op.Refusals = append(op.Refusals, number)
		}
	}
	slices.Sort(op.Refusals)
	return op, nil
}

func (c *compiler) schema(of any) (*jsonschema.Schema, error) {
	if of == nil {
		return nil, nil
	}
	whole := map[string]any{"allOf": []any{of}, "definitions": c.definitions}
	raw, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	c.made++
	url := fmt.Sprintf("mem://firecracker/%d.json", c.made)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft4)
	if err := compiler.AddResource(url, value); err != nil {
		return nil, err
	}
	return compiler.Compile(url)
}
