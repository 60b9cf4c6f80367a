package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// do makes a plain HTTP request below the server's address. Whatever is not a
// 2xx answer is an error; the caller closes the body.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	c.caller.Authorize(r.Header)
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, wire.ToHTTPError(answer)
}

// unreachable tells a server that does not answer from a caller who gave up.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var own *nimbus.Error
	if errors.As(err, &own) {
		return own // from the body that was being sent, or of reaching
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "the request broke off: %w", wire.Unreachable(err))
}

// reaching says of which server it is that it does not answer, and what to do.
type reaching struct {
	base *url.URL
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t reaching) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.next.RoundTrip(r)
	var own *nimbus.Error
	var dial *net.OpError
	switch {
	case err == nil || r.Context().Err() != nil || errors.As(err, &own):
		return answer, err
	case errors.As(err, &dial) && dial.Op == "dial":
		return nil, nimbus.Errorf(nimbus.CodeUnavailable, "the server at %s can't be reached: %w", t.base, wire.Unreachable(innermost(dial))).
			WithHint("is it running, and is this its address? --server or NIMBUS_SERVER names another; `nimbus up` starts one on this machine")
	}
	return nil, nimbus.Errorf(nimbus.CodeUnavailable, "the server at %s did not answer: %w", t.base, wire.Unreachable(err)).
		WithHint("is this the address of a Nimbus server, by https where it has TLS? --server or NIMBUS_SERVER names another")
}

// innermost is the reason without the addresses around it, which are told already.
func innermost(dial *net.OpError) error {
	var system *os.SyscallError
	if errors.As(dial, &system) {
		return system.Err
	}
	return dial.Err
}

// LoginLink makes a link that signs a browser in, once: as the caller, or as
// the user that an administrator of the platform names by id or address. Codes:
// forbidden, not_found.
func (c *Client) LoginLink(ctx context.Context, user string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]string{"user": user})
	if err != nil {
		return "", fmt.Errorf("encode request: %w", err)
	}
	resp, err := c.do(ctx, http.MethodPost, "/api/v1/logins", nil, http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Path string `json:"path"`
	}
	if err := readJSON(resp.Body, &answer); err != nil {
		return "", err
	}
	link, err := c.base.Parse(answer.Path)
	if err != nil {
		return "", fmt.Errorf("read login link: %w", err)
	}
	return link.String(), nil
}

// UploadWorkspace stores the files of a job, a tar stream compressed with zstd,
// and returns the id that Spec.WorkspaceID takes. Codes: too_large.
func (c *Client) UploadWorkspace(ctx context.Context, tarZstd io.Reader) (string, error) {
	header := http.Header{"Content-Type": {"application/zstd"}}
	resp, err := c.do(ctx, http.MethodPut, "/api/v1/workspaces", nil, header, tarZstd)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		ID string `json:"id"`
	}
	err = readJSON(resp.Body, &answer)
	return answer.ID, err
}

// maxJSONBytes bounds the small JSON answers of the plain HTTP endpoints.
const maxJSONBytes = 1 << 20

func readJSON(r io.Reader, into any) error {
	if err := json.NewDecoder(io.LimitReader(r, maxJSONBytes)).Decode(into); err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "the server's answer can't be read: %w", wire.Unreachable(err))
	}
	return nil
}
