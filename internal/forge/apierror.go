package forge

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// Waiting when GitHub limits us without saying for how long, and the longest
// that its answer may make us wait.
const (
	defaultRetryAfter = time.Minute
	maxRetryAfter     = time.Hour
)

// translate is the one place where answers of the API become errors of ours:
//
//	rate limits, 5xx, network, timeouts → unavailable, with the wait that GitHub asks for
//	401, 403  → forbidden: the App, its key, its permissions or the owner's settings
//	404       → not_found: no such thing, or no access to it
//	409       → conflict
//	422, 400  → invalid
//
// The message carries GitHub's reason, because the person who pushed can often
// mend it; never the body of a request or of a good answer.
func translate(what string, err error) error {
	var limited *github.RateLimitError
	var secondary *github.AbuseRateLimitError
	var answer *github.ErrorResponse
	var token *tokenError
	if errors.As(err, &token) {
		what += " (access token)"
	}
	var short *shortError
	switch {
	case errors.As(err, &short):
		return unavailable(what, short.Error(), err, min(short.wait, maxRetryAfter))
	case errors.As(err, &limited):
		return unavailable(what, "rate limit exceeded", err, retryAfter(limited.Response))
	case errors.As(err, &secondary):
		wait := retryAfter(secondary.Response)
		if secondary.RetryAfter != nil {
			wait = min(*secondary.RetryAfter, maxRetryAfter)
		}
		return unavailable(what, "secondary rate limit", err, wait)
	case errors.As(err, &answer) && answer.Response != nil:
		return refused(what, answer.Response, reason(answer), err)
	case errors.Is(err, context.Canceled):
		return nimbus.Errorf(nimbus.CodeCancelled, "%s at GitHub: %w", what, err)
	}
	return unavailable(what, "GitHub can't be reached", err, 0)
}

// refused turns a status into an error.
func refused(what string, resp *http.Response, why string, cause error) error {
	code := nimbus.CodeUnavailable
	switch status := resp.StatusCode; {
	case rateLimited(resp, why):
		return unavailable(what, "rate limit exceeded", cause, retryAfter(resp))
	case status >= 500:
		return unavailable(what, "GitHub answered "+strconv.Itoa(status), cause, headerWait(resp))
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		code = nimbus.CodeForbidden
	case status == http.StatusNotFound, status == http.StatusGone:
		code = nimbus.CodeNotFound
	case status == http.StatusConflict:
		code = nimbus.CodeConflict
	case status == http.StatusUnprocessableEntity, status == http.StatusBadRequest:
		code = nimbus.CodeInvalid
	}
	if why == "" {
		why = http.StatusText(resp.StatusCode)
	}
	e := nimbus.Errorf(code, "%s: GitHub answered %d: %s", what, resp.StatusCode, why)
	e.Err = cause
	if code == nimbus.CodeForbidden {
		e = e.WithHint("check the App's key, that it is installed and not suspended, and that it may administer the repository's runners")
	}
	return e
}

func unavailable(what, why string, cause error, wait time.Duration) error {
	e := nimbus.Errorf(nimbus.CodeUnavailable, "%s: %s", what, why)
	e.Err, e.RetryAfter = cause, wait
	return e
}

// reason is GitHub's message with the details that it lists, bounded.
func reason(e *github.ErrorResponse) string {
	words := []string{e.Message}
	for _, d := range e.Errors {
		if d.Message != "" && len(words) < 4 {
			words = append(words, d.Message)
		}
	}
	return text(strings.Join(words, "; "))
}

// rateLimited tells a limit from a refusal: both may be 403. go-github knows
// those with X-Ratelimit-Remaining: 0 or the documentation's address.
func rateLimited(resp *http.Response, why string) bool {
	limit := resp.StatusCode == http.StatusForbidden &&
		(resp.Header.Get("Retry-After") != "" || resp.Header.Get("X-Ratelimit-Remaining") == "0" || strings.Contains(strings.ToLower(why), "rate limit"))
	return limit || resp.StatusCode == http.StatusTooManyRequests
}

// retryAfter is how long a limit lasts: Retry-After, else until the bucket is
// filled, else a minute; never longer than maxRetryAfter.
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil {
		return defaultRetryAfter
	}
	if wait := headerWait(resp); wait > 0 {
		return wait
	}
	reset, err := strconv.ParseInt(resp.Header.Get("X-Ratelimit-Reset"), 10, 64)
	if err != nil || resp.Header.Get("X-Ratelimit-Remaining") != "0" {
		return defaultRetryAfter
	}
	// Against GitHub's own clock, so that ours may be off.
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return defaultRetryAfter
	}
	return min(max(time.Unix(reset, 0).Sub(now), time.Second), maxRetryAfter)
}

// headerWait is Retry-After in seconds, 0 without one.
func headerWait(resp *http.Response) time.Duration {
	seconds, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32)
	if err != nil || seconds <= 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// tokenRefused tells a 401 of a call, not one of fetching the token.
func tokenRefused(err error) bool {
	var token *tokenError
	var answer *github.ErrorResponse
	return !errors.As(err, &token) && errors.As(err, &answer) &&
		answer.Response != nil && answer.Response.StatusCode == http.StatusUnauthorized
}
