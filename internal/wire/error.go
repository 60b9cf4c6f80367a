package wire

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
)

// Headers of an answer that carry what a Connect code can't.
const (
	CodeHeader = "Nimbus-Code"
	HintHeader = "Nimbus-Hint" // URL-encoded: hints hold quotes and dashes
)

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

// Error makes what a caller gets of an error: message and hint of one of ours,
// nothing of any other.
func Error(err error) *connect.Error {
	var own *nimbus.Error
	if !errors.As(err, &own) {
		own = &nimbus.Error{Code: nimbus.CodeInternal, Message: "internal error"}
	}
	out := connect.NewError(transports[own.Code].connect, errors.New(own.Message))
	out.Meta().Set(CodeHeader, string(own.Code))
	if hint := nimbus.ErrorHint(err); hint != "" {
		out.Meta().Set(HintHeader, url.QueryEscape(hint))
	}
	return out
}

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
	if code := nimbus.Code(sent.Meta().Get(CodeHeader)); code != "" {
		out := &nimbus.Error{Code: code, Message: sent.Message(), Err: err}
		if hint, err := url.QueryUnescape(sent.Meta().Get(HintHeader)); err == nil {
			out.Hint = hint
		}
		return out
	}
	for code, t := range transports {
		if t.connect == sent.Code() && code != nimbus.CodeFenced && code != nimbus.CodeTooLarge {
			return &nimbus.Error{Code: code, Message: sent.Message(), Err: err}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || sent.Code() == connect.CodeDeadlineExceeded {
		return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "no answer in time", Err: err}
	}
	return &nimbus.Error{Code: nimbus.CodeInternal, Message: sent.Message(), Err: err}
}
