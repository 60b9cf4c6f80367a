package apidesc

import (
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// Kind tells what is wrong with a body.
type Kind string

// The kinds.
const (
	Empty     Kind = "empty"     // there has to be one
	Unwanted  Kind = "unwanted"  // there must be none
	Malformed Kind = "malformed" // it is not JSON
	Missing   Kind = "missing"   // a field
	Unknown   Kind = "unknown"   // a field
	WrongType Kind = "type"
	WrongWord Kind = "word"
	OutOf     Kind = "range"
	Other     Kind = "other"
)

// ViolationError is what is wrong with a body.
type ViolationError struct {
	Kind  Kind
	Field string // its name; for a word, a type or a range the path, "rate_limiter.ops.size"
	// Detail is what was found and what was expected.
	Detail string
}

func (v *ViolationError) Error() string { return fmt.Sprintf("%s %s: %s", v.Kind, v.Field, v.Detail) }

// violation finds what a parser would trip over first: that a field is missing
// shows only at the end.
func violation(e *jsonschema.ValidationError) *ViolationError {
	var first *ViolationError
	var look func(e *jsonschema.ValidationError)
	look = func(e *jsonschema.ValidationError) {
		for _, cause := range e.Causes {
			look(cause)
		}
		if len(e.Causes) > 0 {
			return
		}
		if v := leaf(e); first == nil || first.Kind == Missing && v.Kind != Missing {
			first = v
		}
	}
	look(e)
	return first
}

func leaf(e *jsonschema.ValidationError) *ViolationError {
	at := strings.Join(e.InstanceLocation, ".")
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		return &ViolationError{Kind: Missing, Field: k.Missing[0], Detail: "it is required"}
	case *kind.AdditionalProperties:
		return &ViolationError{Kind: Unknown, Field: k.Properties[0], Detail: "there is no such field"}
	case *kind.Type:
		return &ViolationError{Kind: WrongType, Field: at, Detail: fmt.Sprintf("it is of type %s, expected %s", k.Got, strings.Join(k.Want, " or "))}
	case *kind.Enum:
		return &ViolationError{Kind: WrongWord, Field: at, Detail: fmt.Sprintf("it is %v, expected one of %v", k.Got, k.Want)}
	case *kind.Minimum:
		return &ViolationError{Kind: OutOf, Field: at, Detail: fmt.Sprintf("%v is less than %v", k.Got.RatString(), k.Want.RatString())}
	case *kind.Maximum:
		return &ViolationError{Kind: OutOf, Field: at, Detail: fmt.Sprintf("%v is more than %v", k.Got.RatString(), k.Want.RatString())}
	}
	return &ViolationError{Kind: Other, Field: at, Detail: e.Error()}
}
