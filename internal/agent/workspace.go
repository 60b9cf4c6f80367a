package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

const (
	// workspaceTimeout bounds each of the two ways of the job's files: from the
	// control plane to this host, and from here into the sandbox.
	workspaceTimeout = 10 * time.Minute
	workspaceChunk   = 256 << 10
	// maxWorkspace is the largest that the control plane takes; a larger one is
	// refused here too.
	maxWorkspace  = 256 << 20
	workspaceFile = "workspace"
)

// putWorkspace brings the job's files in. They are whole on this host before
// the guest gets the first byte: a control plane that goes away meanwhile is
// asked again, and what the guest says of them is about all of them.
func (g *guest) putWorkspace(ctx context.Context) error {
	id := g.t.assign.Spec.WorkspaceID
	if id == "" {
		return nil
	}
	path := filepath.Join(g.t.dir, workspaceFile)
	defer os.Remove(path) // at the latest it goes with the attempt
	if err := g.t.fetchWorkspace(ctx, id, path); err != nil {
		return fmt.Errorf("fetch workspace: %w", err)
	}
	return g.do(ctx, workspaceTimeout, func(ctx context.Context, c *guestlink.Client) error {
		return sendWorkspace(ctx, c, path)
	})
}

func sendWorkspace(ctx context.Context, c *guestlink.Client, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open workspace: %w", err)
	}
	defer f.Close()
	stream := c.PutWorkspace(ctx)
	for {
		chunk := make([]byte, workspaceChunk)
		n, err := f.Read(chunk)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read workspace: %w", err)
		}
		if err := stream.Send(&nimbusv1.PutWorkspaceRequest{Chunk: chunk[:n]}); err != nil {
			break // the answer tells why
		}
	}
	if _, err := stream.CloseAndReceive(); err != nil {
		return fmt.Errorf("unpack workspace: %w", err)
	}
	return nil
}

// fetchWorkspace brings a workspace to a file of this host, tried again while
// the control plane is away.
func (t *attempt) fetchWorkspace(ctx context.Context, id, path string) error {
	ctx, cancel := context.WithTimeout(ctx, workspaceTimeout)
	defer cancel()
	var pause backoff
	for {
		err := t.fetchWorkspaceOnce(ctx, id, path)
		if err == nil || !retryable(err) || !pause.wait(ctx) {
			return err
		}
		t.log.WarnContext(ctx, "fetch workspace again", "error", err)
	}
}

// fetchWorkspaceOnce is one try. The workspace's id is its digest: what is
// there afterwards is what was sent. Codes: unavailable for a way that broke.
func (t *attempt) fetchWorkspaceOnce(ctx context.Context, id, path string) error {
	body, err := t.openWorkspace(ctx, id)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep it: %w", err)
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), io.LimitReader(body, maxWorkspace+1))
	switch {
	case err != nil:
		return nimbus.Errorf(nimbus.CodeUnavailable, "it broke off after %d bytes: %w", n, err)
	case n > maxWorkspace:
		return nimbus.Errorf(nimbus.CodeTooLarge, "it is larger than %d MiB", maxWorkspace>>20)
	case hex.EncodeToString(hash.Sum(nil)) != id:
		return nimbus.Errorf(nimbus.CodeUnavailable, "what came is not what was asked for")
	}
	return nil
}

// openWorkspace asks the control plane for a workspace of this attempt's job,
// and once more with a new session where the one that it had has ended.
func (t *attempt) openWorkspace(ctx context.Context, id string) (io.ReadCloser, error) {
	token := t.agent.session.token()
	body, err := t.openWorkspaceAs(ctx, id, token)
	if nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
		return body, err
	}
	if err := t.agent.session.renew(ctx, token); err != nil {
		return nil, err
	}
	return t.openWorkspaceAs(ctx, id, t.agent.session.token())
}

func (t *attempt) openWorkspaceAs(ctx context.Context, id, token string) (io.ReadCloser, error) {
	a, l := t.agent, t.lease()
	address, err := url.JoinPath(a.cfg.Server, "api", "v1", "workspaces", url.PathEscape(id))
	if err != nil {
		return nil, fmt.Errorf("find its address: %w", err)
	}
	lease := url.Values{"attempt": {l.AttemptID}, "fence": {strconv.FormatInt(l.Fence, 10)}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"?"+lease.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	wire.Caller{Token: func() string { return token }}.Authorize(r.Header)
	answer, err := a.cfg.HTTP.Do(r)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeUnavailable, "the control plane can't be reached: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		return nil, wire.ToHTTPError(answer)
	}
	return answer.Body, nil
}
