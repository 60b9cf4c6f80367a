package httpapi

import (
	"context"
	"strings"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nimbus-ci/nimbus"
)

// maxNesting is how deep a message is looked into; none of ours is deeper than
// five, and one that were would be refused, not let through.
const maxNesting = 16

// text is an interceptor that refuses what is no text where text is wanted: a
// NUL, which PostgreSQL can't keep and no argument of a process can hold, and
// what is not UTF-8. Fields of bytes may hold anything.
type text struct{}

// WrapUnary implements connect.Interceptor.
func (text) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if m, ok := r.Any().(proto.Message); ok {
			if err := checkText(m.ProtoReflect(), maxNesting); err != nil {
				return nil, err
			}
		}
		return next(ctx, r)
	}
}

// WrapStreamingClient implements connect.Interceptor; it is not for clients.
func (text) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor. No service streams, and
// answers refuses one that does.
func (text) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// checkText looks at every string of a message, and names the field of one that
// is no text.
func checkText(m protoreflect.Message, depth int) (err error) {
	if depth == 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "the request is nested too deeply")
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				if err = checkValue(f, f.MapKey(), k.Value(), depth); err == nil {
					err = checkValue(f, f.MapValue(), v, depth)
				}
				return err == nil
			})
		case f.IsList():
			for i := 0; i < v.List().Len() && err == nil; i++ {
				err = checkValue(f, f, v.List().Get(i), depth)
			}
		default:
			err = checkValue(f, f, v, depth)
		}
		return err == nil
	})
	return err
}

// checkValue looks at one value of a field; kind says what it is.
func checkValue(field, kind protoreflect.FieldDescriptor, v protoreflect.Value, depth int) error {
	switch kind.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return checkText(v.Message(), depth-1)
	case protoreflect.StringKind:
		switch s := v.String(); {
		case strings.ContainsRune(s, 0):
			return nimbus.Errorf(nimbus.CodeInvalid, "%s holds a NUL character, which no text may", field.JSONName())
		case !utf8.ValidString(s):
			return nimbus.Errorf(nimbus.CodeInvalid, "%s is not valid UTF-8", field.JSONName())
		}
	}
	return nil
}
