package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest/apidesc"
)

// payloadLimit is how long a request's body may be.
const payloadLimit = 51200

// fault is a refusal.
type fault struct {
	status int
	words  string
}

func (f *fault) Error() string { return f.words }

func refuse(format string, args ...any) error {
	return &fault{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// ServeHTTP answers one call after the other, as Firecracker does.
func (m *machine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "Firecracker API")
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, payloadLimit))
	var answer any
	if err != nil {
		err = refuse("Request payload with size %d is larger than the limit of %d allowed by server.", r.ContentLength, payloadLimit)
	} else {
		m.mu.Lock()
		answer, err = m.do(r.Method, r.URL.Path, body)
		m.mu.Unlock()
	}
	status := http.StatusOK
	if err != nil {
		status = http.StatusBadRequest
		if f, ok := errors.AsType[*fault](err); ok {
			status = f.status
		}
		answer = map[string]string{"fault_message": err.Error()}
	}
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
	} else {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer)
	}
	if m.failure != nil {
		m.end() // it is too dirty to go on
	}
}

// do checks a call against the description and does it.
func (m *machine) do(method, path string, body []byte) (any, error) {
	op, err := apidesc.Find(method, path)
	if err != nil {
		return nil, err
	}
	if op == nil {
		return nil, unknown(method, path, body)
	}
	// The description lets some go without a body; the parser does not.
	if len(body) == 0 && method != http.MethodGet && !strings.HasPrefix(path, "/balloon/hinting/") {
		return nil, refuse("Empty %s request.", method)
	}
	if err := op.CheckRequest(body); err != nil {
		if v, ok := errors.AsType[*apidesc.ViolationError](err); ok {
			return nil, word(op, v, len(body))
		}
		return nil, err
	}
	var id string
	if strings.Contains(op.Path, "{") {
		if id, err = pathID(op, path, body); err != nil {
			return nil, err
		}
	}
	c, ok := calls[op.ID]
	if !ok {
		return nil, fmt.Errorf("the double does not know %s", op.ID)
	}
	switch {
	case c.when == preBoot && m.state != notStarted:
		return nil, refuse("The requested operation is not supported after starting the microVM.")
	case c.when == postBoot && m.state == notStarted:
		return nil, refuse("The requested operation is not supported before starting the microVM.")
	}
	return c.do(m, id, body)
}

// unknown words the refusal of a call that is not described.
func unknown(method, path string, body []byte) error {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case len(body) == 0 && method == http.MethodPut:
		return refuse("Empty PUT request.")
	case len(body) == 0 && method == http.MethodPatch:
		return refuse("Empty PATCH request.")
	case path == "/drives/" || path == "/network-interfaces/" || path == "/pmem/" || path == "/drives" || path == "/network-interfaces" || path == "/pmem":
		return refuse("The ID cannot be empty.")
	}
	return refuse("Invalid request method and/or path: %s %s.", method, first)
}

// word says a violation as Firecracker's parser would.
func word(op *apidesc.Operation, v *apidesc.ViolationError, length int) error {
	parser := func(format string, args ...any) error {
		return refuse("An error occurred when deserializing the json body of a request: %s at line 1 column %d.", fmt.Sprintf(format, args...), length)
	}
	switch v.Kind {
	case apidesc.Unwanted:
		return refuse("%s request cannot have a body.", op.Method)
	case apidesc.Missing:
		return parser("missing field `%s`", v.Field)
	case apidesc.Unknown:
		return parser("unknown field `%s`, expected another", v.Field)
	case apidesc.WrongWord:
		return parser("unknown variant, %s", v.Detail)
	case apidesc.WrongType:
		return parser("invalid type: %s", v.Detail)
	case apidesc.Malformed:
		return parser("expected value (%s)", v.Detail)
	}
	if v.Field == "vcpu_count" {
		return refuse("Machine config error: %s", invalidVCPUs)
	}
	return parser("invalid value: %s", v.Detail)
}

// pathID returns the id in a path, which must be that in the body.
func pathID(op *apidesc.Operation, path string, body []byte) (string, error) {
	id := path[strings.LastIndexByte(path, '/')+1:]
	if strings.ContainsFunc(id, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return "", refuse("API Resource IDs can only contain alphanumeric characters and underscores.")
	}
	var in struct {
		Drive string `json:"drive_id"`
		Iface string `json:"iface_id"`
		Pmem  string `json:"id"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return "", err
	}
	if in.Drive+in.Iface+in.Pmem == id {
		return id, nil
	}
	if in.Iface != "" {
		return "", refuse("The id from the path [%s] does not match the id from the body [%s]!", id, in.Iface)
	}
	return "", refuse("The id from the path does not match the id from the body!")
}
