package keyed

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// statuses are how codes are told. Of all of them clients take 404 for a miss;
// after the others they go on without the cache, most with a word to their user.
var statuses = map[nimbus.Code]int{
	nimbus.CodeInvalid: http.StatusBadRequest, nimbus.CodeUnauthenticated: http.StatusUnauthorized, nimbus.CodeForbidden: http.StatusForbidden,
	nimbus.CodeNotFound: http.StatusNotFound, nimbus.CodeConflict: http.StatusConflict, nimbus.CodeTooLarge: http.StatusRequestEntityTooLarge,
	nimbus.CodeRateLimited: http.StatusTooManyRequests, nimbus.CodeUnavailable: http.StatusServiceUnavailable,
	nimbus.CodeUnsupported: http.StatusMethodNotAllowed, nimbus.CodeCancelled: http.StatusRequestTimeout, nimbus.CodeFenced: http.StatusPreconditionFailed,
}

// Refuse answers with an error: one line of text that says why, in JSON to Turborepo.
func (h *Handler) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	header := w.Header()
	for _, name := range []string{"Content-Length", "Content-Range", "ETag", "Last-Modified", "Content-Disposition", "X-Artifact-Tag", "X-Artifact-Duration"} {
		header.Del(name)
	}
	code := nimbus.ErrorCode(err)
	if r.Context().Err() != nil && errors.Is(err, context.Cause(r.Context())) {
		code = nimbus.CodeCancelled // nobody reads this
	}
	status, known := statuses[code]
	text := string(code)
	if own := (*nimbus.Error)(nil); errors.As(err, &own) {
		text = own.Message
	}
	if hint := nimbus.ErrorHint(err); hint != "" {
		text += " (" + hint + ")"
	}
	full := nimbus.IsFull(err)
	switch {
	case full:
		h.cfg.Log.ErrorContext(r.Context(), "a disk is full, clients go on without the cache", "method", r.Method, "path", r.URL.Path, "error", err)
		if !known {
			text = "the server's disk is full"
		}
	case !known:
		h.cfg.Log.ErrorContext(r.Context(), "the cache could not answer", "method", r.Method, "path", r.URL.Path, "error", err)
		status, text = http.StatusInternalServerError, "a fault of the server's: its log says which"
	}
	switch {
	case full, strings.HasPrefix(text, quotaIsFull):
		status = http.StatusInsufficientStorage
	case status == http.StatusConflict && r.Header.Get("If-None-Match") == "*":
		status = http.StatusPreconditionFailed
	case status == http.StatusUnauthorized:
		header.Set("WWW-Authenticate", `Basic realm="nimbus cache", charset="UTF-8"`)
	}
	if wait := nimbus.ErrorRetryAfter(err); wait > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	if strings.Contains(r.URL.Path, "/"+turboPath) {
		writeJSON(w, status, map[string]map[string]string{"error": {"code": string(code), "message": text}})
		return
	}
	write(w, status, "text/plain; charset=utf-8", []byte(text+"\n"))
}

// quotaIsFull is how the cache says that a quota has no room: a content that is
// too large by itself is something else.
const quotaIsFull = "insufficient usage"

// unsatisfiable says how long the content is.
func (k call) unsatisfiable(size int64, err error) error {
	header := k.w.Header()
	header.Del("Content-Disposition")
	header.Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
	write(k.w, http.StatusRequestedRangeNotSatisfiable, "text/plain; charset=utf-8", []byte(err.Error()+"\n"))
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{}`)
	}
	write(w, status, "application/json", body)
}

func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // to who may be gone
}
