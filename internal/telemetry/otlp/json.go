package otlp

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
)

// isIDName tells the fields that OTLP/JSON has in hex, where protobuf's JSON has
// base64: read as that, an id would be longer, and no error.
func isIDName(quoted []byte) bool {
	switch string(quoted) {
	case `"traceId"`, `"spanId"`, `"parentSpanId"`, `"trace_id"`, `"span_id"`, `"parent_span_id"`:
		return true
	}
	return false
}

// notAnID stands for one that is not in hex: no id has its length.
var notAnID = []byte{0}

// idsToBase64 rewrites the ids of a body, and holds it to the bounds of depth and
// of messages. It tells strings from what is between them, and knows no more of
// JSON: who decodes it says whether it is any. An id whose name is written with
// escapes stays as it is, and is then of no length that an id has.
func idsToBase64(body []byte) ([]byte, error) {
	out := make([]byte, 0, len(body))
	depth, messages := 0, 0
	for i := 0; i < len(body); {
		switch body[i] {
		case '{', '[':
			depth++
			if body[i] == '{' {
				messages++
			}
		case '}', ']':
			depth--
		case '"':
			end := stringEnd(body, i)
			out = append(out, body[i:end]...)
			out, i = appendID(out, body, i, end)
			continue
		}
		if depth > 2*maxDepth { // each message may be in a list
			return nil, refuse(http.StatusBadRequest, "values are nested more than %d deep", maxDepth)
		}
		if messages > maxMessages {
			return nil, tooMany()
		}
		out = append(out, body[i])
		i++
	}
	return out, nil
}

// appendID writes what follows a string that is the name of an id: the id. It
// returns where to go on.
func appendID(out, body []byte, from, to int) (rewritten []byte, next int) {
	if !isIDName(body[from:to]) {
		return out, to
	}
	i := skipSpace(body, to)
	if i == len(body) || body[i] != ':' {
		return out, to
	}
	if i = skipSpace(body, i+1); i == len(body) || body[i] != '"' {
		return out, to
	}
	end := stringEnd(body, i)
	if end-i < len(`""`) {
		return out, to // the body ends within it
	}
	id, err := hex.DecodeString(string(body[i+1 : end-1]))
	if err != nil {
		id = notAnID // what has it is not taken, and the rest is
	}
	out = append(out, body[to:i]...)
	out = append(base64.StdEncoding.AppendEncode(append(out, '"'), id), '"')
	return out, end
}

// stringEnd is where a string ends that begins at i: behind its quote, or with the
// body.
func stringEnd(body []byte, i int) int {
	for i++; i < len(body); i++ {
		switch body[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(body)
}

func skipSpace(body []byte, i int) int {
	for i < len(body) && (body[i] == ' ' || body[i] == '\t' || body[i] == '\n' || body[i] == '\r') {
		i++
	}
	return i
}
