package actions

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// refusal is how a code is told in each protocol. One line for each code of
// nimbus: what clients make of a status (which they try again, which they show)
// is different in each of them.
type refusal struct {
	twirp  string // the code of Twirp's error
	status int    // of Twirp and of version 1
	blob   string // the code of Azure's error
	blobIs int    // its status
	v1     string // the type of version 1's error
	ours   bool   // a fault of ours: logged, its text is not shown
	later  bool   // Retry-After belongs to it
}

var refusals = map[nimbus.Code]refusal{
	nimbus.CodeInvalid:         {twirp: "invalid_argument", status: 400, blob: "InvalidInput", blobIs: 400, v1: "InvalidArgumentException"},
	nimbus.CodeUnauthenticated: {twirp: "unauthenticated", status: 401, blob: "AuthenticationFailed", blobIs: 401, v1: "UnauthorizedRequestException"},
	nimbus.CodeForbidden:       {twirp: "permission_denied", status: 403, blob: "AuthenticationFailed", blobIs: 403, v1: "AccessDeniedException"},
	nimbus.CodeNotFound:        {twirp: "not_found", status: 404, blob: "BlobNotFound", blobIs: 404, v1: "ArtifactCacheItemNotFoundException"},
	// Clients take this for "is there already", and go on.
	nimbus.CodeConflict: {twirp: "already_exists", status: 409, blob: "BlobAlreadyExists", blobIs: 409, v1: "ArtifactCacheItemAlreadyExistsException"},
	nimbus.CodeFenced:   {twirp: "failed_precondition", status: 412, blob: "ConditionNotMet", blobIs: 412, v1: "PreconditionFailedException"},
	// Twirp has 429 for a quota, which go-actions-cache tries again for five
	// minutes; 413 it does not, nor does anybody else.
	nimbus.CodeTooLarge: {twirp: "resource_exhausted", status: 413, blob: "RequestBodyTooLarge", blobIs: 413, v1: "QuotaExceededException"},
	// Azure says 503 where others say 429: its SDKs try that again.
	nimbus.CodeRateLimited: {twirp: "resource_exhausted", status: 429, blob: "ServerBusy", blobIs: 503, v1: "TooManyRequestsException", later: true},
	nimbus.CodeUnavailable: {twirp: "unavailable", status: 503, blob: "ServerBusy", blobIs: 503, v1: "ServiceUnavailableException", later: true},
	nimbus.CodeUnsupported: {twirp: "unimplemented", status: 501, blob: "UnsupportedHeader", blobIs: 400, v1: "NotSupportedException"},
	nimbus.CodeCancelled:   {twirp: "canceled", status: 408, blob: "OperationTimedOut", blobIs: 408, v1: "RequestCanceledException"},
	nimbus.CodeInternal:    {twirp: "internal", status: 500, blob: "InternalError", blobIs: 500, v1: "InternalException", ours: true},
}

// fullDisk is how a disk without room is told, the database's or that of contents:
// 424, at which no client tries again. At a 5xx go-actions-cache does for a
// quarter of an hour.
var fullDisk = refusal{twirp: "failed_precondition", status: 424, blob: "InsufficientStorage", blobIs: 424, v1: "InsufficientStorageException"}

// told is an error as somebody may see it.
type told struct {
	refusal

	text string
}

// tell logs what is a fault of ours, and says of an error what may be shown.
func (h *handler) tell(r *http.Request, err error) told {
	code := nimbus.ErrorCode(err)
	if r.Context().Err() != nil && (code == nimbus.CodeInternal || code == nimbus.CodeUnavailable) && errors.Is(err, context.Cause(r.Context())) {
		code = nimbus.CodeCancelled // nobody reads this
	}
	t := told{refusal: refusals[code]}
	if t.twirp == "" {
		t.refusal = refusals[nimbus.CodeInternal]
	}
	text := string(code)
	if nimbus.IsFull(err) {
		t.refusal, text = fullDisk, "the server's disk is full"
		h.Log.LogAttrs(r.Context(), slog.LevelError, "a disk is full, clients go on without the cache",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	if t.ours {
		// The query is left out: it holds a signature.
		h.Log.LogAttrs(r.Context(), slog.LevelError, "the Actions cache could not answer",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
		t.text = "a fault of the server's: its log says which"
		return t
	}
	// The outermost of ours alone, which a person may read: clients look for how it
	// begins.
	t.text = text
	if own := (*nimbus.Error)(nil); errors.As(err, &own) {
		t.text = own.Message
	}
	if hint := nimbus.ErrorHint(err); hint != "" {
		t.text += " (" + hint + ")"
	}
	return t
}

// writer writes an error in the words of a protocol.
type writer func(w http.ResponseWriter, t told)

// reply answers with an error.
func (h *handler) reply(w http.ResponseWriter, r *http.Request, err error, write writer) {
	t := h.tell(r, err)
	header := w.Header()
	for _, name := range []string{"Content-Length", "Content-Range", "ETag", "Last-Modified", "Content-Disposition"} {
		header.Del(name)
	}
	if wait := nimbus.ErrorRetryAfter(err); t.later && wait > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	write(w, t)
}

// refuse answers what is under a path of ours and no call of its protocol.
func (h *handler) refuse(write writer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.reply(w, r, nimbus.Errorf(nimbus.CodeNotFound, "there is no %s %.100s here", r.Method, r.URL.Path), write)
	})
}

// writeTwirpError: a body that is no such JSON has @actions/cache try again, five times.
func writeTwirpError(w http.ResponseWriter, t told) {
	writeJSON(w, t.status, struct {
		Code string `json:"code"`
		Msg  string `json:"msg"`
	}{t.twirp, t.text})
}

func writeV1Error(w http.ResponseWriter, t told) {
	writeJSON(w, t.status, struct {
		Message   string `json:"message"`
		TypeName  string `json:"typeName"`
		TypeKey   string `json:"typeKey"`
		ErrorCode int    `json:"errorCode"`
	}{t.text, "Nimbus.Cache." + t.v1, t.v1, 0})
}

func writeBlobError(w http.ResponseWriter, t told) {
	body, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"Error"`
		Code    string   `xml:"Code"`
		Message string   `xml:"Message"`
	}{Code: t.blob, Message: t.text})
	if err != nil {
		body = nil // the status says it too
	}
	header := w.Header()
	header.Set("X-Ms-Error-Code", t.blob)
	header.Set("Content-Type", "application/xml")
	body = append([]byte(xml.Header), body...)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(t.blobIs)
	w.Write(body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{}`)
	}
	writeBody(w, status, "application/json", body)
}

func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}
