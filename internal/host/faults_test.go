package host_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// fault stands between an agent and its control plane; it passes requests on,
// or does not.
type fault func(r *http.Request, next http.RoundTripper) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f fault) RoundTrip(r *http.Request) (*http.Response, error) { return f(r, plainHTTP2) }

var plainHTTP2 = func() *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: &protocols}
}()

var errAway = errors.New("connection refused by the test")

// startFaulty starts an agent behind a fault, with the local executor unless
// another is given. stop ends it as SIGTERM does.
func startFaulty(t *testing.T, p *plane, dir string, f fault, executors ...executor.Executor) (stop func()) {
	t.Helper()
	if len(executors) == 0 {
		testenv.Require(t, "root")
		var err error
		executors, err = host.Executors(host.Config{Data: dir, Executors: []string{nimbus.ExecutorLocal}, Programs: programsInPath, Log: logger(t)})
		must(t, err)
	}
	join, _, err := p.identity.IssueJoin(t.Context(), identity.Root(), time.Minute)
	must(t, err)
	a, err := agent.New(agent.Config{
		Server: p.url, Data: dir, Name: "faulty", Version: "test", JoinToken: join, CPUs: 4, MemoryMiB: 8192,
		Executors: executors, HTTP: &http.Client{Transport: f}, Log: logger(t),
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, func() {}) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return stop
}

// putWorkspace uploads a tree with one file of that size.
func (p *plane) putWorkspace(t *testing.T, size int64) (id string) {
	t.Helper()
	state := uint32(1)
	content := make([]byte, size)
	for i := range content { // noise: it must not shrink
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		content[i] = byte(state)
	}
	return p.putFile(t, "file", content)
}

// putFile uploads a tree with one program.
func (p *plane) putFile(t *testing.T, name string, content []byte) (id string) {
	t.Helper()
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedFastest))
	must(t, err)
	w := tar.NewWriter(z)
	must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}))
	_, err = w.Write(content)
	must(t, errors.Join(err, w.Close(), z.Close()))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.url+"/api/v1/workspaces", &packed)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+p.admin)
	answer, err := http.DefaultClient.Do(r)
	must(t, err)
	defer answer.Body.Close()
	var stored struct {
		ID string `json:"id"`
	}
	must(t, json.NewDecoder(answer.Body).Decode(&stored))
	return stored.ID
}

// cutBody ends as the body over a broken connection does.
type cutBody struct {
	io.ReadCloser
	left int
}

func (c *cutBody) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// TestWorkspaceIsFetchedAgain: a control plane that is away for a moment, or
// goes in the midst of a workspace, must not end the job for good.
func TestWorkspaceIsFetchedAgain(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]fault{
		"refused": func(*http.Request, http.RoundTripper) (*http.Response, error) { return nil, errAway },
		"unavailable": func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Status: "503 Service Unavailable", Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		},
		"cut": func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			answer, err := next.RoundTrip(r)
			if err == nil {
				answer.Body = &cutBody{answer.Body, 700_000}
			}
			return answer, err
		},
		"changed": func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			answer, err := next.RoundTrip(r)
			if err == nil {
				answer.Body = struct {
					io.Reader
					io.Closer
				}{io.MultiReader(strings.NewReader("x"), answer.Body), answer.Body}
			}
			return answer, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, dir := startPlane(t), t.TempDir()
			var asked atomic.Int32
			startFaulty(t, p, dir, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
				if strings.Contains(r.URL.Path, "/workspaces/") && asked.Add(1) == 1 {
					return first(r, next)
				}
				return next.RoundTrip(r)
			})
			id := p.putWorkspace(t, 2<<20)
			j := p.submit(t, "wc -c < file", func(s *scheduler.Submission) { s.Spec.WorkspaceID = id })
			j = p.await(t, j.ID, "finished", over)
			if j.Result != nimbus.ResultSuccess || j.AttemptCount != 1 || asked.Load() != 2 || strings.TrimSpace(p.log(t, j)) != fmt.Sprint(2<<20) {
				t.Errorf("%s, %+v, %d attempts, asked %d times, log %q", j.Result, j.Reason, j.AttemptCount, asked.Load(), p.log(t, j))
			}
			empty(t, dir)
		})
	}
}

// TestLostReplyAndAnAbsence: the reply to an accept is lost, and the control
// plane is away for a while in the midst of the job. Nobody notices.
func TestLostReplyAndAnAbsence(t *testing.T) {
	t.Parallel()
	p, dir := startPlane(t), t.TempDir()
	var lost atomic.Bool
	var back atomic.Int64
	startFaulty(t, p, dir, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if time.Now().UnixNano() < back.Load() {
			return nil, errAway
		}
		answer, err := next.RoundTrip(r)
		if err == nil && strings.HasSuffix(r.URL.Path, "/Accept") && lost.CompareAndSwap(false, true) {
			answer.Body.Close()
			return nil, errAway
		}
		return answer, err
	})
	j := p.submit(t, "i=1; while [ $i -le 300 ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 4")
	p.await(t, j.ID, "running", func(j nimbus.Job) bool { return j.LogLines > 20 })
	back.Store(time.Now().Add(8 * time.Second).UnixNano())
	j = p.await(t, j.ID, "finished", over)
	var want strings.Builder
	for i := 1; i <= 300; i++ {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if !lost.Load() || j.ExitCode == nil || *j.ExitCode != 4 || j.AttemptCount != 1 || p.log(t, j) != want.String() {
		t.Errorf("lost %v: %s, %+v, %d attempts, a log of %d bytes", lost.Load(), j.Result, j.Reason, j.AttemptCount, len(p.log(t, j)))
	}
	empty(t, dir)
}

// TestManyShortLines is what a page by its text alone made too large to send.
func TestManyShortLines(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	startHost(t, p, dir)
	const lines = 300_000
	j := p.submit(t, fmt.Sprintf("yes | head -n %d", lines))
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultSuccess || j.LogLines != lines {
		t.Errorf("%s, %+v, %d lines", j.Result, j.Reason, j.LogLines)
	}
	empty(t, dir)
}

// TestCancelBeforeTheStart: a job is cancelled while its workspace can't be
// had, and while its guest does not answer; neither is waited for.
func TestCancelBeforeTheStart(t *testing.T) {
	t.Parallel()
	p, dir := startPlane(t), t.TempDir()
	guests := &scriptedExecutor{behaviours: map[string]guestBehaviour{}, boxes: map[string]*scriptedSandbox{}}
	asked := make(chan struct{}, 100)
	startFaulty(t, p, dir, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if strings.Contains(r.URL.Path, "/workspaces/") {
			select {
			case asked <- struct{}{}:
			default:
			}
			return nil, errAway
		}
		return next.RoundTrip(r)
	}, guests)
	id := p.putWorkspace(t, 1)
	for name, c := range map[string]struct {
		edit   func(*scheduler.Submission)
		within time.Duration // who waits does so for ten minutes, and for one
	}{
		"no workspace":    {func(s *scheduler.Submission) { s.Spec.WorkspaceID = id }, 45 * time.Second},
		"no answer of it": {func(s *scheduler.Submission) { s.Spec.Command = []string{"never answers"} }, 45 * time.Second},
	} {
		j := p.submit(t, "true", c.edit)
		p.await(t, j.ID, "ready", func(j nimbus.Job) bool { return !j.Timeline.SandboxReadyAt.IsZero() })
		if name == "no workspace" {
			<-asked
		}
		began := time.Now()
		_, err := p.scheduler.Cancel(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, nimbus.DefaultOrgID, j.ID)
		must(t, err)
		j = p.awaitFor(t, 90*time.Second, j.ID, "destroyed", func(j nimbus.Job) bool { return !j.Timeline.DestroyedAt.IsZero() })
		if took := time.Since(began); took > c.within || j.Result != nimbus.ResultCancelled {
			t.Errorf("%s: %s, gone after %s", name, j.Result, took)
		}
	}
}

// TestAJobDoesNotWaitForItsPhases: how far an attempt is can't be told for a
// while. Its process runs meanwhile, and what is told later is told in order.
func TestAJobDoesNotWaitForItsPhases(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	var heard atomic.Bool
	startFaulty(t, p, t.TempDir(), func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/ReportPhase") && !heard.Load() {
			return nil, errAway
		}
		return next.RoundTrip(r)
	})
	j := p.submit(t, "echo begin")
	j = p.await(t, j.ID, "its log", func(j nimbus.Job) bool { return j.LogLines > 0 })
	if !j.Timeline.SandboxReadyAt.IsZero() || !j.Timeline.RunningAt.IsZero() {
		t.Errorf("phases that nobody heard of: %+v", j.Timeline)
	}
	heard.Store(true)
	j = p.await(t, j.ID, "destroyed", func(j nimbus.Job) bool { return !j.Timeline.DestroyedAt.IsZero() })
	at := j.Timeline
	if j.Result != nimbus.ResultSuccess || at.SandboxReadyAt.IsZero() || at.RunningAt.Before(at.SandboxReadyAt) || at.FinishedAt.Before(at.RunningAt) {
		t.Errorf("%s: %+v", j.Result, at)
	}
}

// TestACancellationIsOldNews: while a job takes its time to end, the control
// plane answers each poll at once with its cancellation. The agent does not ask
// as fast as it is answered.
func TestACancellationIsOldNews(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	var polls atomic.Int64
	startFaulty(t, p, t.TempDir(), func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/Poll") {
			polls.Add(1)
		}
		return next.RoundTrip(r)
	})
	j := p.submit(t, "trap '' TERM; echo begin; while :; do sleep 0.1; done")
	p.await(t, j.ID, "running", func(j nimbus.Job) bool { return j.State == nimbus.StateRunning && j.LogLines > 0 })
	before, began := polls.Load(), time.Now()
	_, err := p.scheduler.Cancel(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, nimbus.DefaultOrgID, j.ID)
	must(t, err)
	j = p.await(t, j.ID, "finished", over)
	asked, took := polls.Load()-before, time.Since(began)
	if most := 20 + int64(4*took.Seconds()); asked > most {
		t.Errorf("%d polls within %s, at most %d are needed", asked, took, most)
	}
	if j.Result != nimbus.ResultCancelled {
		t.Errorf("ended with %s, %+v", j.Result, j.Reason)
	}
}
