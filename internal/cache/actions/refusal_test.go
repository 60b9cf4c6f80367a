package actions

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

func newHandler(t testing.TB) *handler {
	t.Helper()
	return &handler{Config: Config{Keys: newKeys(t, secret(1)), Log: slog.New(slog.DiscardHandler)}.withDefaults()}
}

// TestRefusals: each code of nimbus has its words in each protocol, and no fault of
// ours is shown.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for code, want := range map[nimbus.Code]struct {
		status     int
		twirp, v1  string
		blobStatus int
		blob       string
	}{
		nimbus.CodeInvalid:         {400, "invalid_argument", "InvalidArgumentException", 400, "InvalidInput"},
		nimbus.CodeUnauthenticated: {401, "unauthenticated", "UnauthorizedRequestException", 401, "AuthenticationFailed"},
		nimbus.CodeForbidden:       {403, "permission_denied", "AccessDeniedException", 403, "AuthenticationFailed"},
		nimbus.CodeNotFound:        {404, "not_found", "ArtifactCacheItemNotFoundException", 404, "BlobNotFound"},
		nimbus.CodeConflict:        {409, "already_exists", "ArtifactCacheItemAlreadyExistsException", 409, "BlobAlreadyExists"},
		nimbus.CodeFenced:          {412, "failed_precondition", "PreconditionFailedException", 412, "ConditionNotMet"},
		nimbus.CodeTooLarge:        {413, "resource_exhausted", "QuotaExceededException", 413, "RequestBodyTooLarge"},
		nimbus.CodeRateLimited:     {429, "resource_exhausted", "TooManyRequestsException", 503, "ServerBusy"},
		nimbus.CodeUnavailable:     {503, "unavailable", "ServiceUnavailableException", 503, "ServerBusy"},
		nimbus.CodeUnsupported:     {501, "unimplemented", "NotSupportedException", 400, "UnsupportedHeader"},
		nimbus.CodeCancelled:       {408, "canceled", "RequestCanceledException", 408, "OperationTimedOut"},
		nimbus.CodeInternal:        {500, "internal", "InternalException", 500, "InternalError"},
		"a new one":                {500, "internal", "InternalException", 500, "InternalError"},
	} {
		failure := nimbus.Errorf(code, "disk /dev/sdx is on fire").WithHint("call somebody")
		failure.RetryAfter = 1500 * time.Millisecond
		h := newHandler(t)
		ask := func(write writer) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			w.Header().Set("ETag", `"1"`)
			h.reply(w, httptest.NewRequest(http.MethodPut, "/", nil), fmt.Errorf("put a block: %w", failure), write)
			if w.Header().Get("ETag") != "" || w.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) {
				t.Errorf("%s: headers %v", code, w.Header())
			}
			if again := w.Header().Get("Retry-After"); (again == "2") != (code == nimbus.CodeRateLimited || code == nimbus.CodeUnavailable) {
				t.Errorf("%s: Retry-After is %q", code, again)
			}
			ours := want.twirp == "internal"
			shown := strings.Contains(w.Body.String(), "disk /dev/sdx is on fire (call somebody)")
			if shown == ours || strings.Contains(w.Body.String(), "put a block") {
				t.Errorf("%s: %s", code, w.Body)
			}
			return w
		}
		var twirp struct {
			Code string `json:"code"`
			Msg  string `json:"msg"`
		}
		w := ask(writeTwirpError)
		if err := json.Unmarshal(w.Body.Bytes(), &twirp); err != nil || w.Code != want.status || twirp.Code != want.twirp || twirp.Msg == "" {
			t.Errorf("%s: Twirp says %d, %+v, %v", code, w.Code, twirp, err)
		}
		var v1 struct {
			Message string `json:"message"`
			TypeKey string `json:"typeKey"`
		}
		w = ask(writeV1Error)
		if err := json.Unmarshal(w.Body.Bytes(), &v1); err != nil || w.Code != want.status || v1.TypeKey != want.v1 || v1.Message == "" {
			t.Errorf("%s: version 1 says %d, %+v, %v", code, w.Code, v1, err)
		}
		var blob struct {
			Code    string `xml:"Code"`
			Message string `xml:"Message"`
		}
		w = ask(writeBlobError)
		if err := xml.Unmarshal(w.Body.Bytes(), &blob); err != nil || w.Code != want.blobStatus || blob.Code != want.blob || w.Header().Get("X-Ms-Error-Code") != want.blob {
			t.Errorf("%s: the blob endpoint says %d, %+v, %v", code, w.Code, blob, err)
		}
	}
}

// TestWhoHasGoneIsNoFault: an error that comes of a caller's leaving is not logged
// as ours.
func TestWhoHasGoneIsNoFault(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequest(http.MethodPut, "/", nil).WithContext(ctx)
	h := newHandler(t)
	if got := h.tell(r, fmt.Errorf("write to disk: %w", context.Canceled)); got.twirp != "canceled" {
		t.Errorf("a caller that left: %+v", got)
	}
	if got := h.tell(r, errors.New("the disk is on fire")); got.twirp != "internal" {
		t.Errorf("a fault that is found as a caller leaves: %+v", got)
	}
}

// TestAFullDiskIsNotTriedAgain: neither that of contents nor that of the database
// is told by a status at which a client tries again.
func TestAFullDiskIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	h := newHandler(t)
	for _, failure := range []error{
		fmt.Errorf("write blob: %w", syscall.ENOSPC), fmt.Errorf("write blob: %w", syscall.EDQUOT),
		&nimbus.Error{Code: nimbus.CodeUnavailable, Message: "the disk is full", Hint: "make room", Err: syscall.ENOSPC},
	} {
		for _, write := range []writer{writeTwirpError, writeV1Error, writeBlobError} {
			w := httptest.NewRecorder()
			h.reply(w, httptest.NewRequest(http.MethodPut, "/", nil), fmt.Errorf("take a block: %w", failure), write)
			if w.Code != http.StatusFailedDependency || w.Header().Get("Retry-After") != "" || !strings.Contains(w.Body.String(), "disk is full") {
				t.Errorf("%v: %d, %v, %s", failure, w.Code, w.Header(), w.Body)
			}
		}
	}
}
