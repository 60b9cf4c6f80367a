// Package api is a client of Firecracker's API: HTTP over the unix socket of
// one monitor. It has the calls that Nimbus makes, in the words of Firecracker's
// own description.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Bounds of a call. The monitor is the guest's neighbour: what it answers is
// bounded as if the guest had.
const (
	maxAnswer   = 1 << 20
	maxFault    = 16 << 10
	callTimeout = 10 * time.Second
	// Creating a snapshot writes the guest's memory; loading one maps it.
	snapshotTimeout = 5 * time.Minute
)

// Dial opens a connection to the monitor's socket.
type Dial func(ctx context.Context) (net.Conn, error)

// Client calls one monitor. It is safe for concurrent use; the monitor answers
// one call after the other.
type Client struct {
	http *http.Client
}

// New returns a client of the monitor that dial reaches.
func New(dial Dial) *Client {
	return &Client{http: &http.Client{
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			MaxIdleConns:           1,
			MaxConnsPerHost:        2, // the monitor takes ten connections in all
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true,
		},
		// It never redirects; something that does is not it.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is a refusal of the monitor.
type Error struct {
	Method, Path string
	Status       int
	// Fault is what it said; it may repeat parts of the request.
	Fault string
}

func (e *Error) Error() string {
	return fmt.Sprintf("firecracker refused %s %s (%d): %s", e.Method, e.Path, e.Status, e.Fault)
}

// Fault returns what the monitor said when it refused a call, "" for any other
// error.
func Fault(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Fault
	}
	return ""
}

func (c *Client) put(ctx context.Context, path string, body any) error {
	return c.call(ctx, http.MethodPut, path, callTimeout, body, nil)
}

func (c *Client) patch(ctx context.Context, path string, body any) error {
	return c.call(ctx, http.MethodPatch, path, callTimeout, body, nil)
}

func (c *Client) get(ctx context.Context, path string, out any) error {
	return c.call(ctx, http.MethodGet, path, callTimeout, nil, out)
}

// call sends body, if there is one, and decodes the answer into out.
func (c *Client) call(ctx context.Context, method, path string, timeout time.Duration, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s %s: %w", method, path, err)
		}
		content = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://firecracker"+path, content)
	if err != nil {
		return fmt.Errorf("make %s %s: %w", method, path, err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Accept", "application/json")
	answer, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("call firecracker: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode >= http.StatusMultipleChoices {
		return refusal(method, path, answer)
	}
	if out == nil {
		_, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // the connection is used again
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read answer to %s %s: %w", method, path, err)
	}
	if len(raw) > maxAnswer {
		return fmt.Errorf("read answer to %s %s: it is longer than %d bytes", method, path, maxAnswer)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("decode answer to %s %s: %w", method, path, err)
	}
	return nil
}

// refusal reads an error answer; one that says nothing is told by its status.
func refusal(method, path string, answer *http.Response) error {
	e := &Error{Method: method, Path: path, Status: answer.StatusCode}
	var fault struct {
		Message string `json:"fault_message"`
	}
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxFault))
	if err == nil && json.Unmarshal(raw, &fault) == nil {
		e.Fault = fault.Message
	}
	if e.Fault == "" {
		e.Fault = http.StatusText(answer.StatusCode)
	}
	return e
}
