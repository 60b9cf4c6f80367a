package distribution

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// methodError is the refusal of what can't be done with a thing.
type methodError struct{ methods map[string]method }

// Error implements error.
func (*methodError) Error() string { return "this can't be done here" }

// told is how a code of ours is told.
type told struct {
	status int
	reason registry.Reason
}

var codes = map[nimbus.Code]told{
	nimbus.CodeInvalid:         {http.StatusBadRequest, registry.Unsupported},
	nimbus.CodeUnauthenticated: {http.StatusUnauthorized, registry.Unauthorized},
	nimbus.CodeForbidden:       {http.StatusForbidden, registry.Denied},
	nimbus.CodeNotFound:        {http.StatusNotFound, registry.NameUnknown},
	nimbus.CodeConflict:        {http.StatusConflict, registry.Denied},
	nimbus.CodeTooLarge:        {http.StatusRequestEntityTooLarge, registry.SizeInvalid},
	nimbus.CodeRateLimited:     {http.StatusTooManyRequests, registry.TooManyRequests},
	nimbus.CodeUnavailable:     {http.StatusServiceUnavailable, "UNAVAILABLE"},
	nimbus.CodeUnsupported:     {http.StatusNotImplemented, registry.Unsupported},
	nimbus.CodeCancelled:       {http.StatusRequestTimeout, registry.BlobUploadInvalid},
	nimbus.CodeInternal:        {http.StatusInternalServerError, "UNKNOWN"},
}

// statusOf is the status of an error. Some words of the specification have one of
// their own.
func statusOf(err error) (t told) {
	t, ok := codes[nimbus.ErrorCode(err)]
	if !ok {
		t = codes[nimbus.CodeInternal]
	}
	if nimbus.IsFull(err) {
		t = told{http.StatusInsufficientStorage, registry.Denied}
	}
	var r *registry.RefusalError
	if errors.As(err, &r) {
		t.reason = r.Reason
	}
	switch {
	case r != nil && r.Reason == registry.Denied && t.status == http.StatusRequestEntityTooLarge: // a quota
		t.status = http.StatusForbidden
	case r != nil && r.Reason == registry.ManifestBlobUnknown:
		t.status = http.StatusBadRequest
	case r != nil && r.Reason == registry.Unsupported && t.status == http.StatusConflict:
		t.status = http.StatusMethodNotAllowed
	}
	return t
}

// refuse answers with an error, in the form of the specification.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	header := w.Header()
	for _, name := range []string{"Content-Length", "Content-Range", "ETag", "Docker-Content-Digest", "Cache-Control"} {
		header.Del(name)
	}
	if m := (*methodError)(nil); errors.As(err, &m) {
		header.Set("Allow", strings.Join(slices.Sorted(maps.Keys(m.methods)), ", "))
		writeErrors(w, http.StatusMethodNotAllowed, registry.Unsupported, m.Error())
		return
	}
	code := nimbus.ErrorCode(err)
	if r.Context().Err() != nil && (code == nimbus.CodeInternal || code == nimbus.CodeUnavailable) && errors.Is(err, context.Cause(r.Context())) {
		err = nimbus.Errorf(nimbus.CodeCancelled, "the caller is gone") // nobody reads this
	}
	t, text := statusOf(err), "a fault of the server's: its log says which"
	if nimbus.IsFull(err) {
		text = "the server's disk is full"
	}
	if t.status >= http.StatusInternalServerError {
		h.Log.LogAttrs(r.Context(), slog.LevelError, "the registry could not answer",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	if own := (*nimbus.Error)(nil); errors.As(err, &own) && own.Code != nimbus.CodeInternal {
		text = own.Message
		if hint := nimbus.ErrorHint(err); hint != "" {
			text += " (" + hint + ")"
		}
	}
	if c := asChallenge(err); c != nil {
		header.Set("WWW-Authenticate", c.header(r))
		t.status = http.StatusUnauthorized
	}
	if wait := nimbus.ErrorRetryAfter(err); wait > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	writeErrors(w, t.status, t.reason, text)
}

func writeErrors(w http.ResponseWriter, status int, reason registry.Reason, text string) {
	type one struct {
		Code    registry.Reason `json:"code"`
		Message string          `json:"message"`
	}
	writeJSON(w, status, struct {
		Errors []one `json:"errors"`
	}{[]one{{reason, text}}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{}`)
	}
	header := w.Header()
	if header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}
