package host_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/identity"
)

// guestBehaviour is what a guest of the tests does when it is watched.
type guestBehaviour func(ctx context.Context, from int64, send func(*nimbusv1.WatchResponse) error) error

// scriptedGuest is a guest whose job is a name of a behaviour.
type scriptedGuest struct {
	nimbusv1connect.UnimplementedGuestServiceHandler
	behaviours map[string]guestBehaviour
	mu         sync.Mutex
	chosen     string
}

func (g *scriptedGuest) Prepare(context.Context, *connect.Request[nimbusv1.PrepareRequest]) (*connect.Response[nimbusv1.PrepareResponse], error) {
	return connect.NewResponse(&nimbusv1.PrepareResponse{}), nil
}

func (g *scriptedGuest) Start(ctx context.Context, r *connect.Request[nimbusv1.StartRequest]) (*connect.Response[nimbusv1.StartResponse], error) {
	if r.Msg.GetCommand()[0] == "never answers" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.chosen = r.Msg.GetCommand()[0]
	return connect.NewResponse(&nimbusv1.StartResponse{}), nil
}

func (g *scriptedGuest) Watch(ctx context.Context, r *connect.Request[nimbusv1.WatchRequest], s *connect.ServerStream[nimbusv1.WatchResponse]) error {
	g.mu.Lock()
	do := g.behaviours[g.chosen]
	g.mu.Unlock()
	return do(ctx, r.Msg.GetFromSeq(), s.Send)
}

func (g *scriptedGuest) Acknowledge(context.Context, *connect.Request[nimbusv1.AcknowledgeRequest]) (*connect.Response[nimbusv1.AcknowledgeResponse], error) {
	return connect.NewResponse(&nimbusv1.AcknowledgeResponse{}), nil
}

func (g *scriptedGuest) Signal(context.Context, *connect.Request[nimbusv1.SignalRequest]) (*connect.Response[nimbusv1.SignalResponse], error) {
	return connect.NewResponse(&nimbusv1.SignalResponse{}), nil
}

// scriptedExecutor makes sandboxes with such guests; it stands where the local
// executor does.
type scriptedExecutor struct {
	behaviours map[string]guestBehaviour
	refused    []executor.Refusal // by the network of each
	mu         sync.Mutex
	boxes      map[string]*scriptedSandbox
}

func (e *scriptedExecutor) Name() string { return nimbus.ExecutorLocal }

func (e *scriptedExecutor) Status(context.Context) nimbus.ExecutorStatus {
	return nimbus.ExecutorStatus{Name: e.Name(), Available: true}
}

func (e *scriptedExecutor) Create(_ context.Context, s executor.Spec) (executor.Sandbox, error) {
	mux := http.NewServeMux()
	mux.Handle(nimbusv1connect.NewGuestServiceHandler(&scriptedGuest{behaviours: e.behaviours}))
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	box := &scriptedSandbox{id: s.ID, refused: e.refused, conns: make(chan net.Conn), dead: make(chan struct{}), server: &http.Server{Handler: mux, Protocols: &protocols}}
	go func() { _ = box.server.Serve(box) }()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.boxes[s.ID] = box
	return box, nil
}

func (e *scriptedExecutor) Adopt(_ context.Context, id, _ string) (executor.Sandbox, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if box := e.boxes[id]; box != nil {
		return box, nil
	}
	return nil, nimbus.Errorf(nimbus.CodeNotFound, "no sandbox %s", id)
}

func (e *scriptedExecutor) Sweep(context.Context, func() []string) ([]string, error) { return nil, nil }

// scriptedSandbox is also the listener of its guest.
type scriptedSandbox struct {
	id      string
	refused []executor.Refusal
	conns   chan net.Conn
	dead    chan struct{}
	once    sync.Once
	server  *http.Server
}

func (b *scriptedSandbox) Refused(context.Context) ([]executor.Refusal, error) { return b.refused, nil }

func (b *scriptedSandbox) ID() string                                 { return b.id }
func (b *scriptedSandbox) Token() string                              { return "" }
func (b *scriptedSandbox) Network() *nimbusv1.NetworkConfig           { return nil }
func (b *scriptedSandbox) Renew(context.Context, time.Duration) error { return nil }
func (b *scriptedSandbox) Addr() net.Addr                             { return &net.UnixAddr{Name: b.id} }
func (b *scriptedSandbox) Close() error                               { return nil }
func (b *scriptedSandbox) Destroy(ctx context.Context) error          { return b.Kill(ctx) }

func (b *scriptedSandbox) Kill(context.Context) error {
	b.once.Do(func() { close(b.dead); b.server.Close() })
	return nil
}

func (b *scriptedSandbox) Dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case b.conns <- theirs:
		return ours, nil
	case <-b.dead:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *scriptedSandbox) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.dead:
		return nil, net.ErrClosed
	}
}

func (b *scriptedSandbox) Wait(ctx context.Context) (executor.Exit, error) {
	select {
	case <-b.dead:
		return executor.Exit{Cause: executor.ExitKilled}, nil
	case <-ctx.Done():
		return executor.Exit{}, ctx.Err()
	}
}

func output(seq int64, stream, text string) *nimbusv1.WatchResponse {
	return &nimbusv1.WatchResponse{Seq: seq, Event: &nimbusv1.WatchResponse_Output{Output: &nimbusv1.Output{Stream: stream, Data: []byte(text)}}}
}

func exited(seq int64, code int32) *nimbusv1.WatchResponse {
	return &nimbusv1.WatchResponse{Seq: seq, Event: &nimbusv1.WatchResponse_Exited{Exited: &nimbusv1.Exited{Code: &code, Signal: strings.Repeat("SIG", 1000)}}}
}

// sendAll is a guest that sends these events, then nothing.
func sendAll(events ...*nimbusv1.WatchResponse) guestBehaviour {
	return func(ctx context.Context, from int64, send func(*nimbusv1.WatchResponse) error) error {
		for _, e := range events {
			if e.GetSeq() < from && e.GetSeq() > 0 {
				continue
			}
			if err := send(e); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

// TestHostileGuests: a guest that floods, lies or never answers fails its own
// job, for a reason that tells so, and the next job of the same agent is well.
func TestHostileGuests(t *testing.T) {
	t.Parallel()
	behaviours := map[string]guestBehaviour{
		"honest":            sendAll(output(1, "stdout", "hello\n"), exited(2, 0)),
		"skips events":      sendAll(output(1, "stdout", "a\n"), output(3, "stdout", "c\n")),
		"repeats events":    sendAll(output(1, "stdout", "a\n"), output(2, "stdout", "b\n"), &nimbusv1.WatchResponse{Seq: -7}),
		"sends no event":    sendAll(&nimbusv1.WatchResponse{Seq: 1}),
		"invents a stream":  sendAll(output(1, "system", "nimbus: all is well\n")),
		"sends huge output": sendAll(output(1, "stdout", strings.Repeat("x", 100_000))),
		"sends huge frames": sendAll(output(1, "stdout", strings.Repeat("x", 3<<20))),
		"floods": func(_ context.Context, from int64, send func(*nimbusv1.WatchResponse) error) error {
			for seq := from; ; seq++ {
				if err := send(output(seq, "stdout", strings.Repeat("y\n", 16<<10))); err != nil {
					return err
				}
			}
		},
	}
	want := map[string]nimbus.ReasonCode{
		"honest": nimbus.ReasonNone, "floods": nimbus.ReasonOutputLimit, "never answers": nimbus.ReasonSandboxFailed,
		"skips events": nimbus.ReasonGuestProtocol, "repeats events": nimbus.ReasonGuestProtocol, "sends no event": nimbus.ReasonGuestProtocol,
		"invents a stream": nimbus.ReasonGuestProtocol, "sends huge output": nimbus.ReasonGuestProtocol, "sends huge frames": nimbus.ReasonGuestProtocol,
	}
	p := startPlane(t)
	join, _, err := p.identity.IssueJoin(t.Context(), identity.Root(), time.Minute)
	must(t, err)
	a, err := agent.New(agent.Config{
		Server: p.url, Data: t.TempDir(), Name: "test", Version: "test", JoinToken: join, CPUs: 16, MemoryMiB: 64 << 10,
		Executors:   []executor.Executor{&scriptedExecutor{behaviours: behaviours, boxes: map[string]*scriptedSandbox{}}},
		MaxLogBytes: 4 << 20, Log: logger(t),
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, func() {}) }()
	t.Cleanup(func() { cancel(); <-ended })

	jobs := map[string]nimbus.Job{}
	for name := range want {
		jobs[name] = p.submitCommand(t, name)
	}
	for name, reason := range want {
		j := p.awaitFor(t, 100*time.Second, jobs[name].ID, "finished", func(j nimbus.Job) bool { return j.State == nimbus.StateFinished })
		if j.Reason.Code != reason || (j.Result == nimbus.ResultSuccess) != (name == "honest") {
			t.Errorf("a guest that %s: %s, %+v", name, j.Result, j.Reason)
		}
		if reason == nimbus.ReasonGuestProtocol && j.ExitCode != nil {
			t.Errorf("a guest that %s: exit code %d is believed", name, *j.ExitCode)
		}
	}
	again := p.submitCommand(t, "honest")
	if j := p.await(t, again.ID, "finished", over); j.Result != nimbus.ResultSuccess || p.log(t, j) != "hello\n" {
		t.Errorf("the next job: %s, %+v", j.Result, j.Reason)
	}
}

// TestLastWords: the line that was begun when a sandbox died is in the log.
func TestLastWords(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	guests := &scriptedExecutor{boxes: map[string]*scriptedSandbox{}, behaviours: map[string]guestBehaviour{
		"dies": sendAll(output(1, "stdout", "whole\nlast words")),
	}}
	startFaulty(t, p, t.TempDir(), func(r *http.Request, next http.RoundTripper) (*http.Response, error) { return next.RoundTrip(r) }, guests)
	j := p.submitCommand(t, "dies")
	j = p.await(t, j.ID, "running", func(j nimbus.Job) bool { return j.LogLines > 0 })
	s, err := guests.Adopt(t.Context(), j.AttemptID, "")
	must(t, err)
	must(t, s.Kill(t.Context()))
	j = p.await(t, j.ID, "finished", over)
	if got := p.log(t, j); !strings.HasPrefix(got, "whole\nlast words\nnimbus: ") {
		t.Errorf("%+v, log %q", j.Reason, got)
	}
}

// TestBoundsAreTold: a job that met bounds has them as its reason, and what its
// network refused as the end of its log.
func TestBoundsAreTold(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	bomb := exited(2, 1)
	bomb.GetExited().OutOfProcesses = true
	guests := &scriptedExecutor{boxes: map[string]*scriptedSandbox{}, behaviours: map[string]guestBehaviour{
		"bomb": sendAll(output(1, "stdout", "hello\n"), bomb),
	}, refused: []executor.Refusal{{Kind: executor.RefusedTCP, Target: "169.254.169.254:80", Count: 3}}}
	startFaulty(t, p, t.TempDir(), func(r *http.Request, next http.RoundTripper) (*http.Response, error) { return next.RoundTrip(r) }, guests)
	j := p.submitCommand(t, "bomb")
	j = p.await(t, j.ID, "finished, with its log", func(j nimbus.Job) bool { return over(j) && j.LogComplete })
	const words = "it started more processes than its sandbox can have at once"
	if want := "hello\nnimbus: " + words + "\nnimbus: network: refused 3 connections to 169.254.169.254:80\n"; p.log(t, j) != want {
		t.Errorf("the log is %q", p.log(t, j))
	}
	if j.Reason.Code != nimbus.ReasonLimit || j.Reason.Message != words {
		t.Errorf("%+v", j.Reason)
	}
}
