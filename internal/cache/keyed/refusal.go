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
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// statuses are how codes are told. Of all of them clients take 404 for a miss;
// after the others they go on without the cache, most with a word to their user.
var statuses = map[nimbus.Code]int{
	nimbus.CodeInvalid: http.StatusBadRequest, nimbus.CodeUnauthenticated: http.StatusUnauthorized, nimbus.CodeForbidden: http.StatusForbidden,
	nimbus.CodeNotFound: http.StatusNotFound, nimbus.CodeConflict: http.StatusConflict, nimbus.CodeTooLarge: http.StatusRequestEntityTooLarge,
	nimbus.CodeRateLimited: http.StatusTooManyRequests, nimbus.CodeUnavailable: http.StatusServiceUnavailable,
	nimbus.CodeUnsupported: http.StatusMethodNotAllowed, nimbus.CodeCancelled: http.StatusRequestTimeout, nimbus.CodeFenced: http.StatusPreconditionFailed,
}

// ofContents are headers that an error does not have.
var ofContents = []string{"Content-Length", "Content-Range", "ETag", "Last-Modified", "Content-Disposition", "X-Artifact-Tag", "X-Artifact-Duration"}

// isAway tells whether contents can't be had, or kept, while all else can.
func isAway(err error) bool {
	return nimbus.ErrorCode(err) == nimbus.CodeUnavailable && !nimbus.IsFull(err)
}

// without answers while that is so, by a status at which clients go on without the
// cache: at a 5xx some of them try again, and others fail.
func (k call) without(status int, err error) error {
	k.cfg.Log.WarnContext(k.r.Context(), "the place of contents is away, clients go on without the cache", "method", k.r.Method, "path", k.r.URL.Path, "error", err)
	for _, name := range ofContents {
		k.w.Header().Del(name)
	}
	transfer.TakeEntry(k.w.Header())
	say(k.w, k.r, status, nimbus.CodeUnavailable, "the place of contents is away: go on without the cache")
	return nil
}

// say answers by a line of text, in JSON to Turborepo.
func say(w http.ResponseWriter, r *http.Request, status int, code nimbus.Code, text string) {
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, Prefix), "/")
	switch {
	case strings.HasPrefix(path, turboPath):
		if status == http.StatusInsufficientStorage { // at a 5xx it sends the same again
			status = http.StatusFailedDependency
		}
		writeJSON(w, status, map[string]map[string]string{"error": {"code": string(code), "message": text}})
	case strings.HasPrefix(path, nxPath):
		write(w, toNx(r.Method, status), "text/plain", []byte(text+"\n")) // it knows no other type
	default:
		write(w, status, "text/plain; charset=utf-8", []byte(text+"\n"))
	}
}

// toNx is a status as Nx is to see it: its run fails at each that its protocol has
// not, be it for want of room. It goes on at a miss, and where it may not save.
func toNx(method string, status int) int {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusConflict:
		return status
	}
	if method == http.MethodPut {
		return http.StatusForbidden
	}
	return http.StatusNotFound
}

// Refuse answers with an error, by say.
func (h *Handler) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	header := w.Header()
	for _, name := range ofContents {
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
	say(w, r, status, code, text)
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
