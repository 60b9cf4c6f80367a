package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// Bounds of talking to the server.
const (
	callTimeout  = 30 * time.Second
	pollTimeout  = 90 * time.Second // the server answers a poll within 50 s
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 5 * time.Second
	maxAnswer    = 4 << 20
)

// errOver says that the server has ended the job: nothing more is taken for it.
var errOver = errors.New("the job is over")

// errCancelledByServer is why a job's context ended.
var errCancelledByServer = errors.New("cancelled by the server")

// statusError is an answer that is no success and no trouble of the moment.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the server answered %d: %s", e.status, e.message)
}

// client speaks the protocol for one runner.
type client struct {
	http     *http.Client
	base     string
	token    string
	session  string
	retryFor time.Duration
}

func newClient(jit protocol.Config, retryFor time.Duration) *client {
	return &client{
		http: &http.Client{Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     time.Minute,
		}},
		base:     strings.TrimRight(jit.ServerURL, "/") + "/_runner/sessions",
		token:    jit.Token,
		retryFor: retryFor,
	}
}

func (c *client) open(ctx context.Context, version string) error {
	var s protocol.Session
	if err := c.call(ctx, http.MethodPost, "", protocol.Hello{Version: version, OS: runtime.GOOS}, &s); err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	c.session = s.ID
	return nil
}

// close ends the session; a server that is gone will notice by itself.
func (c *client) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, _ = c.once(ctx, http.MethodDelete, "", nil)
	c.http.CloseIdleConnections()
}

// waitForJob polls until a job is assigned and acquires it.
func (c *client) waitForJob(ctx context.Context) (*protocol.Job, error) {
	for {
		m, err := c.poll(ctx)
		if err != nil {
			return nil, fmt.Errorf("wait for a job: %w", err)
		}
		if m.Kind != protocol.MessageJob {
			continue
		}
		var job protocol.Job
		err = c.call(ctx, http.MethodPost, "/acquire", nil, &job)
		var refused *statusError
		if errors.As(err, &refused) && refused.status == http.StatusConflict {
			continue // taken back before we came
		}
		if err != nil {
			return nil, fmt.Errorf("acquire the job: %w", err)
		}
		return &job, nil
	}
}

// poll waits for one message; its Kind is "" when there is none yet.
func (c *client) poll(ctx context.Context) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout+c.retryFor)
	defer cancel()
	var m protocol.Message
	err := c.call(ctx, http.MethodGet, "/message", nil, &m)
	return m, err
}

// watch renews the job and listens for its cancellation; the returned context
// ends with it. stop ends both loops and waits for them.
func (c *client) watch(ctx context.Context, every time.Duration) (watched context.Context, stop func()) {
	watched, cancelJob := context.WithCancelCause(ctx)
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { c.renewLoop(loops, max(every, 100*time.Millisecond), cancelJob) })
	wg.Go(func() { c.listenLoop(loops, cancelJob) })
	return watched, func() {
		stopLoops()
		wg.Wait()
		cancelJob(nil)
	}
}

func (c *client) renewLoop(ctx context.Context, every time.Duration, cancelJob context.CancelCauseFunc) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// What can't be reached for a while may come back: the server decides
		// when the lease is over.
		if err := c.call(ctx, http.MethodPost, "/renew", nil, nil); errors.Is(err, errOver) {
			cancelJob(errOver)
			return
		}
	}
}

func (c *client) listenLoop(ctx context.Context, cancelJob context.CancelCauseFunc) {
	for ctx.Err() == nil {
		m, err := c.poll(ctx)
		if err != nil {
			return // the renew loop notices what matters
		}
		if m.Kind == protocol.MessageCancel {
			cancelJob(errCancelledByServer)
			return
		}
	}
}

// step reports a step; a failure of it is the renew loop's to notice.
func (c *client) step(u protocol.StepUpdate) {
	_ = c.background(http.MethodPost, "/step", u)
}

func (c *client) finish(conclusion string) error {
	return c.background(http.MethodPost, "/finish", protocol.Finish{Conclusion: conclusion})
}

// appendLog stores b at offset of the job's log.
func (c *client) appendLog(offset int64, b []byte) error {
	return c.background(http.MethodPost, "/log?offset="+strconv.FormatInt(offset, 10), b)
}

// background is a call that a cancelled job still makes.
func (c *client) background(method, path string, body any) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.retryFor+callTimeout)
	defer cancel()
	return c.call(ctx, method, path, body, nil)
}

// workspace opens the repository's archive.
func (c *client) workspace(ctx context.Context) (io.ReadCloser, error) {
	req, err := c.request(ctx, http.MethodGet, "/workspace", nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch the repository: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, fmt.Errorf("fetch the repository: %w", answerError(resp))
	}
	return resp.Body, nil
}

// call makes a call and repeats it over network errors and 5xx for retryFor.
// All calls can be repeated: the server knows what it has taken.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	deadline := time.Now().Add(c.retryFor)
	for wait := firstBackoff; ; wait = min(2*wait, maxBackoff) {
		b, err := c.once(ctx, method, path, in)
		if err == nil {
			if out == nil || len(b) == 0 {
				return nil
			}
			if err := json.Unmarshal(b, out); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			return nil
		}
		var refused *statusError
		final := errors.As(err, &refused) && refused.status < 500 || errors.Is(err, errOver)
		if final || ctx.Err() != nil || time.Now().Add(wait).After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

func (c *client) once(ctx context.Context, method, path string, in any) ([]byte, error) {
	timeout := callTimeout
	if path == "/message" {
		timeout = pollTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := c.request(ctx, method, path, in)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusGone {
		return nil, errOver
	}
	if resp.StatusCode >= 300 {
		return nil, answerError(resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return b, nil
}

// request makes a request; []byte bodies go raw, others as JSON.
func (c *client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	body, raw := in.([]byte)
	if in != nil && !raw {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("encode a call: %w", err)
		}
	}
	url := c.base
	if c.session != "" {
		url += "/" + c.session + path
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a call: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	if raw {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	return req, nil
}

func answerError(resp *http.Response) error {
	var in struct {
		Message string `json:"message"`
	}
	_ = json.NewDecoder(io.LimitReader(resp.Body, 16<<10)).Decode(&in)
	return &statusError{resp.StatusCode, in.Message}
}
