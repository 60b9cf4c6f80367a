package wire

import (
	"encoding/json"
	"io"
	"net/http"

	"connectrpc.com/connect"

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
	told := tell(err)
	setHeaders(w.Header(), told)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(HTTPStatus(told.Code))
	body := httpError{Code: told.Code, Message: told.Message, Hint: told.Hint}
	_ = json.NewEncoder(w).Encode(body) // the caller is gone: nobody to tell
}

// WriteNoCall answers a call that the server does not have: nothing is found
// there, and in the words of Connect it is not implemented, which is how ToError
// knows that the server is older than the caller.
func WriteNoCall(w http.ResponseWriter, err error) {
	told := tell(err)
	setHeaders(w.Header(), told)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	body := struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{connect.CodeUnimplemented.String(), told.Message}
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
	var cause error
	if body.Code == "" {
		if body.Code = codeOfStatus(r.StatusCode); body.Code == nimbus.CodeUnavailable {
			cause = ErrUnreachable // says what is before the server
		}
	}
	return &nimbus.Error{Code: body.Code, Message: body.Message, Hint: body.Hint, RetryAfter: retryAfterOf(r.Header), Err: cause}
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
