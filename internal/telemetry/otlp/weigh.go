package otlp

import (
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func tooMany() error {
	return refuse(http.StatusRequestEntityTooLarge, "the body holds more than %d messages: send smaller batches", maxMessages)
}

// weigh looks through a body before it is decoded: a message of two bytes takes
// some hundred once it is. It says how many there are.
func weigh(body []byte, of protoreflect.MessageDescriptor, most int) (messages int, err error) {
	left := most
	err = weighMessage(body, of, maxDepth, &left)
	return most - left, err
}

func weighMessage(body []byte, of protoreflect.MessageDescriptor, depth int, left *int) error {
	for len(body) > 0 {
		number, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return malformed(n)
		}
		body = body[n:]
		if n = protowire.ConsumeFieldValue(number, kind, body); n < 0 {
			return malformed(n)
		}
		value := body[:n]
		body = body[n:]
		field := of.Fields().ByNumber(number)
		if kind != protowire.BytesType || field == nil || field.Kind() != protoreflect.MessageKind {
			continue
		}
		if *left--; *left < 0 {
			return tooMany()
		}
		if depth == 0 {
			return refuse(http.StatusBadRequest, "values are nested more than %d deep", maxDepth)
		}
		inner, _ := protowire.ConsumeBytes(value)
		if err := weighMessage(inner, field.Message(), depth-1, left); err != nil {
			return err
		}
	}
	return nil
}

func malformed(n int) error {
	return refuse(http.StatusBadRequest, "the body is no protobuf: %v", protowire.ParseError(n))
}
