package wire

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// maxErrorBytes is how much is read of an answer that is an error.
const maxErrorBytes = 16 << 10

// httpError is the body of an error outside of Connect. Code and hint are also
// in the headers, as Connect's errors have them.
type httpError struct {
	Code    nimbus.Code `json:"code"`
	Message string      `json:"message"`
	Hint    string      `json:"hint,omitempty"`
}

// WriteHTTPError answers a plain HTTP request with an error: message and hint
// of one of ours, nothing of any other.
func WriteHTTPError(w http.ResponseWriter, err error) {
	var own *nimbus.Error
	if !errors.As(err, &own) {
		own = &nimbus.Error{Code: nimbus.CodeInternal, Message: "internal error"}
	}
	body := httpError{Code: own.Code, Message: own.Message, Hint: nimbus.ErrorHint(err)}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set(CodeHeader, string(own.Code))
	if body.Hint != "" {
		h.Set(HintHeader, url.QueryEscape(body.Hint))
	}
	if own.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((own.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(HTTPStatus(own.Code))
	_ = json.NewEncoder(w).Encode(body) // the caller is gone: nobody to tell
}

// ToHTTPError reads the error that a plain HTTP request was answered with. It
// does not close the body.
func ToHTTPError(r *http.Response) error {
	var body httpError
	raw, _ := io.ReadAll(io.LimitReader(r.Body, maxErrorBytes)) // half of it is as good as none
	if err := json.Unmarshal(raw, &body); err != nil || body.Message == "" {
		body = httpError{Message: "the server answered " + r.Status}
	}
	if code := r.Header.Get(CodeHeader); code != "" {
		body.Code = nimbus.Code(code)
	}
	if body.Code == "" {
		body.Code = codeOfStatus(r.StatusCode)
	}
	out := &nimbus.Error{Code: body.Code, Message: body.Message, Hint: body.Hint}
	if seconds, err := strconv.Atoi(r.Header.Get("Retry-After")); err == nil && seconds > 0 {
		out.RetryAfter = time.Duration(min(seconds, 86400)) * time.Second
	}
	return out
}

// codeOfStatus is for answers that are none of ours, a proxy's for example.
func codeOfStatus(status int) nimbus.Code {
	switch status {
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return nimbus.CodeUnavailable
	case http.StatusConflict:
		return nimbus.CodeConflict
	}
	for code, t := range transports {
		if t.http == status {
			return code
		}
	}
	return nimbus.CodeInternal
}
