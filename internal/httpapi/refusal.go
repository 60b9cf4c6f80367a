package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// descriptionHint is where callers find what there is to call.
const descriptionHint = "docs/api.md and docs/api/openapi.yaml tell what may be called, and with what"

// maxRefusal bounds what is kept of an answer of Connect's own.
const maxRefusal = 16 << 10

// refusals gives what Connect refuses by itself, before a handler hears of it,
// the form that every other error has: our code, and a hint.
func refusals(next http.Handler) http.Handler {
	writer := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held := &heldRefusal{ResponseWriter: w}
		next.ServeHTTP(held, r)
		if held.status == 0 {
			return
		}
		w.Header().Del("Content-Length")
		_ = writer.Write(w, r, wire.Error(held.error())) // the caller is gone: nobody to tell
	})
}

// heldRefusal lets an answer through, but for an error that has no code of ours.
type heldRefusal struct {
	http.ResponseWriter
	status int // of what is held, else 0
	body   bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (h *heldRefusal) WriteHeader(status int) {
	if status >= http.StatusBadRequest && h.Header().Get(wire.CodeHeader) == "" {
		h.status = status
		return
	}
	h.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (h *heldRefusal) Write(p []byte) (int, error) {
	if h.status == 0 {
		return h.ResponseWriter.Write(p)
	}
	h.body.Write(p[:min(len(p), maxRefusal-h.body.Len())])
	return len(p), nil
}

// Unwrap lets http.ResponseController reach the connection.
func (h *heldRefusal) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// error is what is held, as one of ours.
func (h *heldRefusal) error() error {
	var told struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(h.body.Bytes(), &told) // some have no body: the status says it
	message := strings.TrimPrefix(told.Message, "unmarshal message: ")
	switch {
	case h.status == http.StatusUnsupportedMediaType:
		return nimbus.Errorf(nimbus.CodeInvalid, "a body of this type can't be read").WithHint("send JSON, with Content-Type: application/json")
	case h.status == http.StatusMethodNotAllowed:
		return nimbus.Errorf(nimbus.CodeInvalid, "calls are made by POST").WithHint(descriptionHint)
	case told.Code == connect.CodeResourceExhausted.String():
		return nimbus.Errorf(nimbus.CodeTooLarge, "the body is too large").
			WithHint("a call takes %d MiB, one without a token %d KiB", maxMessage>>20, maxStranger>>10)
	case told.Code == connect.CodeInvalidArgument.String():
		return nimbus.Errorf(nimbus.CodeInvalid, "%s", message).WithHint(descriptionHint)
	case told.Code == connect.CodeUnimplemented.String():
		return nimbus.Errorf(nimbus.CodeUnsupported, "%s", message)
	case told.Code == connect.CodeCanceled.String():
		return nimbus.Errorf(nimbus.CodeCancelled, "the caller is gone")
	case told.Code == connect.CodeInternal.String():
		return nimbus.Errorf(nimbus.CodeInternal, "internal error")
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "the body did not come in whole, or not in time").WithHint("make the same call again")
}

// noCall answers a call that does not exist. Its body says unimplemented, as
// the protocol has it: clients of ours tell by it that a server is older.
func noCall(w http.ResponseWriter, r *http.Request) {
	err := nimbus.Errorf(nimbus.CodeNotFound, "there is no call %q", clipPath(r.URL.Path)).WithHint(descriptionHint)
	wire.WriteNoCall(w, err)
}

// noPath answers a request for what there is not, outside of calls and pages.
func noPath(w http.ResponseWriter, r *http.Request) {
	wire.WriteHTTPError(w, nimbus.Errorf(nimbus.CodeNotFound, "there is nothing at %q", clipPath(r.URL.Path)).WithHint(descriptionHint))
}

// clipPath keeps the beginning of a path, which is whatever a stranger likes.
func clipPath(path string) string {
	const most = 200
	if len(path) > most {
		return strings.ToValidUTF8(path[:most], "") + "…"
	}
	return path
}
