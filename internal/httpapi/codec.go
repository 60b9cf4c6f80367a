package httpapi

import (
	"fmt"
	"regexp"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
)

// strictJSON reads requests that people and scripts write by hand: a field or
// a name that nobody knows is a typing error there, and one in a filter would
// give everything. Messages in protobuf may be of newer programs, and what is
// unknown in them is ignored: our own clients and hosts send these.
type strictJSON struct{ name string }

// Name implements connect.Codec.
func (c strictJSON) Name() string { return c.name }

// Marshal implements connect.Codec.
func (strictJSON) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", message)
	}
	return protojson.Marshal(m)
}

// Unmarshal implements connect.Codec.
func (strictJSON) Unmarshal(body []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", message)
	}
	if len(body) == 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "the body is empty; the least is {}")
	}
	if err := protojson.Unmarshal(body, m); err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the request can't be read: %s", plainWords(err))
	}
	return nil
}

// preamble is what protojson begins its errors with; its space varies.
var preamble = regexp.MustCompile(`^proto:\s*`)

// plainWords are what protojson says, without whose words they are.
func plainWords(err error) string {
	return preamble.ReplaceAllString(err.Error(), "")
}
