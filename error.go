package nimbus

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Code says what kind of failure an error is. There are few on purpose: each
// one means something different to the caller, and httpapi maps each to one
// transport status in one table.
type Code string

// The codes. A plain error without one counts as CodeInternal: it is logged
// and never shown to a caller.
const (
	CodeInvalid         Code = "invalid"         // the request is wrong and will stay wrong
	CodeUnauthenticated Code = "unauthenticated" // no token, or one that is not known
	CodeForbidden       Code = "forbidden"       // a known caller that may not do this
	CodeNotFound        Code = "not_found"       // no such thing in the caller's org
	CodeConflict        Code = "conflict"        // the thing is in a state that does not allow this
	CodeFenced          Code = "fenced"          // the fencing token is stale: somebody else holds the lease
	CodeTooLarge        Code = "too_large"       // over a documented bound
	CodeRateLimited     Code = "rate_limited"    // come back later
	CodeUnavailable     Code = "unavailable"     // something we need is gone: the same call may work later
	CodeUnsupported     Code = "unsupported"     // this machine or build can't do it
	CodeCancelled       Code = "cancelled"       // the caller gave up
	CodeInternal        Code = "internal"        // a fault of ours
)

// Error is an error that a person may read: what went wrong and, where there
// is one, the next step. Err is the cause; it is logged but never sent to a
// caller.
type Error struct {
	Code    Code
	Message string
	Hint    string
	// RetryAfter is how long to wait before the same call, where the other
	// side said so (CodeUnavailable, CodeRateLimited); 0 means that it did not.
	RetryAfter time.Duration
	Err        error
}

// Errorf makes an Error. A %w verb in the format keeps the cause.
func Errorf(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// WithHint returns a copy of the error that also tells what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Error returns the message alone: hints are printed on a line of their own.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrorCode returns the code of the outermost Error in err's chain,
// CodeInternal when there is none, and "" when err is nil.
func ErrorCode(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// ErrorHint returns the hint of the outermost Error in err's chain that has one.
func ErrorHint(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// ErrorRetryAfter returns how long to wait before trying again, as the
// outermost Error in err's chain has it; 0 when nobody said.
func ErrorRetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// IsFull tells whether an error is that a disk of ours, or a quota of one, has no
// room; one that says something else, and only has that among its causes, is not.
func IsFull(err error) bool {
	code := ErrorCode(err)
	return (code == CodeInternal || code == CodeUnavailable) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}
