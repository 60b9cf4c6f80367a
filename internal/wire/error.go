package wire

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
)

// Headers of an answer that carry what a Connect code can't.
const (
	CodeHeader  = "Nimbus-Code"
	HintHeader  = "Nimbus-Hint" // URL-encoded: hints hold quotes and dashes
	retryHeader = "Retry-After" // whole seconds
)

// maxRetryAfter is the longest wait that is believed; a longer one counts as it.
const maxRetryAfter = 24 * time.Hour

// transport is one row of the table that maps codes to transports.
type transport struct {
	connect connect.Code
	http    int
}

// transports is the one table from our codes to Connect's and HTTP's.
var transports = map[nimbus.Code]transport{
	nimbus.CodeInvalid:         {connect.CodeInvalidArgument, http.StatusBadRequest},
	nimbus.CodeUnauthenticated: {connect.CodeUnauthenticated, http.StatusUnauthorized},
	nimbus.CodeForbidden:       {connect.CodePermissionDenied, http.StatusForbidden},
	nimbus.CodeNotFound:        {connect.CodeNotFound, http.StatusNotFound},
	nimbus.CodeConflict:        {connect.CodeAborted, http.StatusConflict},
	nimbus.CodeFenced:          {connect.CodeAborted, http.StatusConflict},
	nimbus.CodeTooLarge:        {connect.CodeResourceExhausted, http.StatusRequestEntityTooLarge},
	nimbus.CodeRateLimited:     {connect.CodeResourceExhausted, http.StatusTooManyRequests},
	nimbus.CodeUnavailable:     {connect.CodeUnavailable, http.StatusServiceUnavailable},
	nimbus.CodeUnsupported:     {connect.CodeUnimplemented, http.StatusNotImplemented},
	nimbus.CodeCancelled:       {connect.CodeCanceled, 499},
	nimbus.CodeInternal:        {connect.CodeInternal, http.StatusInternalServerError},
}

// HTTPStatus is the status of a code.
func HTTPStatus(c nimbus.Code) int {
	if t, ok := transports[c]; ok {
		return t.http
	}
	return http.StatusInternalServerError
}

// tell makes what a caller may know of an error: code, message, hint and wait
// of one of ours, nothing of any other or of one whose code is in no table.
func tell(err error) *nimbus.Error {
	var own *nimbus.Error
	if !errors.As(err, &own) {
		return &nimbus.Error{Code: nimbus.CodeInternal, Message: "internal error"}
	}
	if _, ok := transports[own.Code]; !ok {
		return &nimbus.Error{Code: nimbus.CodeInternal, Message: "internal error"}
	}
	return &nimbus.Error{Code: own.Code, Message: own.Message, Hint: nimbus.ErrorHint(err), RetryAfter: own.RetryAfter}
}

// setHeaders writes what the headers of an answer carry of a told error.
func setHeaders(h http.Header, told *nimbus.Error) {
	h.Set(CodeHeader, string(told.Code))
	if told.Hint != "" {
		h.Set(HintHeader, url.QueryEscape(told.Hint))
	}
	if told.RetryAfter > 0 {
		h.Set(retryHeader, strconv.FormatInt(int64((told.RetryAfter+time.Second-1)/time.Second), 10))
	}
}

// notAllowed is how Connect tells of the answer to a call of a service that the
// server does not have: it looks for a page, which can't be posted to.
var notAllowed = strconv.Itoa(http.StatusMethodNotAllowed) + " " + http.StatusText(http.StatusMethodNotAllowed)

func hintOf(h http.Header) string {
	hint, err := url.QueryUnescape(h.Get(HintHeader))
	if err != nil {
		return ""
	}
	return hint
}

func retryAfterOf(h http.Header) time.Duration {
	seconds, err := strconv.ParseInt(h.Get(retryHeader), 10, 32)
	if err != nil || seconds < 0 {
		return 0 // or a date, which only others send
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// Error makes what a caller gets of an error: message and hint of one of ours,
// nothing of any other.
func Error(err error) *connect.Error {
	told := tell(err)
	out := connect.NewError(transports[told.Code].connect, errors.New(told.Message))
	setHeaders(out.Meta(), told)
	return out
}

// ErrUnreachable is in the chain of an error that no server sent: it could not be
// asked, or its answer did not come in whole.
var ErrUnreachable = errors.New("the server can't be reached")

// Unreachable puts ErrUnreachable into the chain of an error, and leaves its words.
func Unreachable(err error) error { return unreachable{err} }

type unreachable struct{ error }

func (u unreachable) Unwrap() error        { return u.error }
func (u unreachable) Is(target error) bool { return target == ErrUnreachable }

// ToError gives back the error that a server sent, and CodeUnavailable for one
// that could not be asked. Nil stays nil.
func ToError(err error) error {
	if err == nil {
		return nil
	}
	var sent *connect.Error
	if !errors.As(err, &sent) {
		return err
	}
	if stranger := (x509.UnknownAuthorityError{}); errors.As(err, &stranger) {
		return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "the server's certificate is of a CA that is not trusted here",
			Hint: "name a file with the CA's certificate by --ca-file", Err: Unreachable(err)}
	}
	if own := (*nimbus.Error)(nil); errors.As(err, &own) {
		return own // of this side: the transport says why nobody could be asked
	}
	if code := nimbus.Code(sent.Meta().Get(CodeHeader)); code != "" {
		if sent.Code() == connect.CodeUnimplemented {
			code = nimbus.CodeUnsupported // also a call that is not found: see WriteNoCall
		}
		return &nimbus.Error{
			Code: code, Message: sent.Message(), Hint: hintOf(sent.Meta()), RetryAfter: retryAfterOf(sent.Meta()), Err: err,
		}
	}
	for code, t := range transports {
		if t.connect == sent.Code() && code != nimbus.CodeFenced && code != nimbus.CodeTooLarge {
			if code == nimbus.CodeUnavailable { // a server of ours says its code
				err = Unreachable(err)
			}
			return &nimbus.Error{Code: code, Message: sent.Message(), Err: err}
		}
	}
	if sent.Code() == connect.CodeUnknown && sent.Message() == notAllowed {
		return &nimbus.Error{Code: nimbus.CodeUnsupported, Message: "the server does not know this call", Err: err}
	}
	if errors.Is(err, context.DeadlineExceeded) || sent.Code() == connect.CodeDeadlineExceeded {
		return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "no answer in time", Err: Unreachable(err)}
	}
	return &nimbus.Error{Code: nimbus.CodeInternal, Message: sent.Message(), Err: err}
}
