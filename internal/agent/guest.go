package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

const (
	// guestTimeout bounds one call to a guest that has little to do.
	guestTimeout = time.Minute
	// silenceTimeout is how long a guest may not be reached before its sandbox
	// counts as failed.
	silenceTimeout = 3 * time.Minute
	// runnerTimeout bounds the registration of a GitHub runner: tries go on
	// while GitHub is away.
	runnerTimeout = 10 * time.Minute
)

// guest is the agent's side of one sandbox. A broken connection is made anew;
// calls are such that they can be repeated.
type guest struct {
	t       *attempt
	sandbox executor.Sandbox
	dead    chan struct{} // closed once the sandbox has ended
	exit    executor.Exit // valid then
	stop    context.CancelFunc
	cache   *cacheTokens // nil where the sandbox has no door to GitHub's cache
	leave   func()       // that door; nil as well

	mu     sync.Mutex
	client *guestlink.Client
}

func newGuest(t *attempt, s executor.Sandbox) *guest {
	ctx, cancel := context.WithCancel(context.Background())
	g := &guest{t: t, sandbox: s, dead: make(chan struct{}), stop: cancel}
	go func() { // ends with the sandbox or with close
		exit, err := s.Wait(ctx)
		if err == nil {
			g.exit = exit
			close(g.dead)
		}
	}()
	return g
}

func (g *guest) close() {
	g.stop()
	if g.leave != nil {
		g.leave()
	}
	g.drop()
}

// drop closes the connection; the next call makes another.
func (g *guest) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		_ = g.client.Close() // broken already is fine
		g.client = nil
	}
}

// connect returns a client, making a connection if there is none.
func (g *guest) connect(ctx context.Context) (*guestlink.Client, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		return g.client, nil
	}
	ctx, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	conn, err := g.sandbox.Dial(ctx)
	if err != nil {
		return nil, err
	}
	g.client = guestlink.NewClient(conn, g.sandbox.Token())
	return g.client, nil
}

// errDead says that there is no guest to talk to any more.
var errDead = errors.New("the sandbox has ended")

// errSilent says that there should be one, but it does not answer.
var errSilent = errors.New("the sandbox does not answer")

// do makes a call to the guest, again over a new connection when the one that
// there was broke. It gives up when the guest is dead, has not answered for
// silenceTimeout, or says that the call itself is wrong.
func (g *guest) do(ctx context.Context, timeout time.Duration, f func(context.Context, *guestlink.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var pause backoff
	answered := time.Now()
	for {
		c, err := g.connect(ctx)
		if err == nil {
			began := time.Now()
			err = f(ctx, c)
			if err == nil || !broken(err) {
				return err
			}
			if time.Since(began) > guestTimeout {
				answered = time.Now() // a long call that broke at last
			}
		}
		g.drop()
		select {
		case <-g.dead:
			return fmt.Errorf("%w: %w", errDead, err)
		default:
		}
		if time.Since(answered) > silenceTimeout {
			return fmt.Errorf("%w: %w", errSilent, err)
		}
		if !pause.wait(ctx) {
			return err
		}
	}
}

// broken tells whether an error is the connection's. Others are answers.
func broken(err error) bool {
	var answer *connect.Error
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code() {
	case connect.CodeUnavailable, connect.CodeUnknown, connect.CodeCanceled, connect.CodeAborted, connect.CodeInternal, connect.CodeDeadlineExceeded, connect.CodeDataLoss:
		return true
	}
	return false
}

// begin takes a fresh sandbox to a running process, or finds the one that runs.
func (g *guest) begin(ctx context.Context) error {
	t := g.t
	adopted := t.begun()
	if !adopted {
		request, err := g.makeReady(ctx)
		if err != nil {
			return err
		}
		if err := t.hold(ctx); err != nil {
			return err
		}
		if err := errors.Join(t.state.setStart(request), t.save()); err != nil {
			return err
		}
	}
	request, err := t.state.start()
	if err != nil {
		return err
	}
	g.admitToCacheDoor()
	startCtx, cancel := t.untilEnded(ctx, endGrace)
	defer cancel()
	fault := ""
	err = g.do(startCtx, guestTimeout, func(ctx context.Context, c *guestlink.Client) error {
		answer, err := c.Start(ctx, connect.NewRequest(request))
		if err == nil {
			fault = answer.Msg.GetTelemetryFault()
		}
		return err
	})
	if errors.Is(err, errDead) && !t.state.Started.IsZero() {
		return nil // it ran, and ended while there was no agent: who follows it finds out how
	}
	if err != nil {
		return &startError{nimbus.ReasonSandboxFailed, fmt.Errorf("start process: %w", err)}
	}
	if t.state.Started.IsZero() {
		t.state.Started = time.Now()
		if err := t.save(); err != nil {
			return err
		}
	}
	if !adopted {
		t.reportPhase(ctx, nimbus.PhaseStarted, nimbus.Start{})
		if fault != "" {
			t.say(ctx, "its telemetry is not received: "+clipFault(fault))
		}
	}
	return nil
}

// makeReady brings a fresh sandbox to where only the start is missing, and
// returns that. It gives up as soon as the attempt is told to end.
func (g *guest) makeReady(ctx context.Context) (*nimbusv1.StartRequest, error) {
	ctx, cancel := g.t.untilEnded(ctx, 0)
	defer cancel()
	if err := g.prepare(ctx); err != nil {
		return nil, fmt.Errorf("prepare sandbox: %w", err)
	}
	if err := g.putWorkspace(ctx); err != nil {
		return nil, &startError{nimbus.ReasonWorkspace, err}
	}
	request, err := g.startRequest(ctx)
	if err != nil {
		return nil, err
	}
	return request, g.t.why()
}

// prepare tells the guest who it is.
func (g *guest) prepare(ctx context.Context) error {
	entropy := make([]byte, 64)
	rand.Read(entropy) // never fails
	id := make([]byte, 16)
	rand.Read(id)
	attempt := strings.TrimPrefix(g.t.assign.AttemptID, nimbus.PrefixAttempt+"_")
	request := &nimbusv1.PrepareRequest{
		Entropy: entropy, Hostname: "nimbus-" + attempt, MachineId: hex.EncodeToString(id), Network: g.sandbox.Network(),
	}
	g.leadToCacheDoor(ctx, request)
	return g.do(ctx, guestTimeout, func(ctx context.Context, c *guestlink.Client) error {
		request.Now = timestamppb.Now()
		_, err := c.Prepare(ctx, connect.NewRequest(request))
		return err
	})
}

// startRequest is what the guest starts: the job's command, or GitHub's runner
// with a registration that is made now that the sandbox is ready.
func (g *guest) startRequest(ctx context.Context) (*nimbusv1.StartRequest, error) {
	t := g.t
	env := imageEnv(g.sandbox)
	env["NIMBUS_JOB_ID"], env["NIMBUS_ATTEMPT_ID"] = t.assign.JobID, t.assign.AttemptID
	maps.Copy(env, g.registryEnv())
	if t.assign.Source != nimbus.SourceGitHub {
		maps.Copy(env, g.cacheEnv())
		maps.Copy(env, t.assign.Spec.Env)
		return &nimbusv1.StartRequest{AttemptId: t.assign.AttemptID, Command: t.assign.Spec.Command, Env: env, Telemetry: t.telemetryReceiver()}, nil
	}
	runner, ok := t.agent.cfg.Runners[t.assign.Class.Executor]
	if !ok {
		return nil, &startError{nimbus.ReasonSandboxFailed, fmt.Errorf("this host has no GitHub runner for the executor %q", t.assign.Class.Executor)}
	}
	if c, ok := g.sandbox.(executor.Carrier); ok {
		if err := c.CarryRunner(ctx); err != nil {
			return nil, fmt.Errorf("GitHub's runner in this sandbox: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, runnerTimeout)
	defer cancel()
	answer, err := call(ctx, t.agent.control.CreateRunner, &nimbusv1.CreateRunnerRequest{Lease: wire.Lease(t.lease())})
	if err != nil {
		reason := nimbus.ReasonForge
		if retryable(err) { // until the end
			reason = nimbus.ReasonForgeAway
		}
		return nil, &startError{reason, fmt.Errorf("register runner: %w", err)}
	}
	maps.Copy(env, runner.Env)
	maps.Copy(env, t.cacheDoorEnv())
	env["ACTIONS_RUNNER_INPUT_JITCONFIG"] = answer.GetEncodedJitConfig()
	t.state.Secrets = append(slices.Clone(t.state.Secrets), answer.GetEncodedJitConfig())
	return &nimbusv1.StartRequest{
		AttemptId: t.assign.AttemptID, Command: runner.Command, Env: env, User: runner.User, RunnerDiagnostics: runner.Diagnostics,
		Telemetry: t.telemetryReceiver(),
	}, nil
}

// cacheEnv has the cache clients of a job find the cache, as GitHub's runner does;
// see docs/cache.md. Actions alone would have it there.
func (g *guest) cacheEnv() map[string]string {
	t := g.t
	if t.assign.CacheToken == "" || t.agent.cfg.CacheURL == nil {
		return nil
	}
	url := t.agent.cfg.CacheURL(t.assign.Class.Executor)
	if url == "" {
		return nil
	}
	t.state.Secrets = append(slices.Clone(t.state.Secrets), t.assign.CacheToken)
	return map[string]string{
		"ACTIONS_RESULTS_URL": url, "ACTIONS_CACHE_URL": url, "ACTIONS_CACHE_SERVICE_V2": "true", "ACTIONS_RUNTIME_TOKEN": t.assign.CacheToken,
		"NIMBUS_CACHE_URL": url + "cache/" + t.assign.OrgID, "NIMBUS_CACHE_TOKEN": t.assign.CacheToken,
	}
}

// registryEnv has a job find the registry of its org's images, and be known there;
// see docs/registry.md. The token is among the attempt's secrets.
func (g *guest) registryEnv() map[string]string {
	t := g.t
	if t.assign.JobToken == "" || t.agent.cfg.CacheURL == nil {
		return nil
	}
	url := t.agent.cfg.CacheURL(t.assign.Class.Executor)
	if url == "" {
		return nil
	}
	return map[string]string{
		"NIMBUS_REGISTRY":       strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/"), // as names of images have it
		"NIMBUS_REGISTRY_TOKEN": t.assign.JobToken,
	}
}

// imageEnv is what the image sets for every process in it.
func imageEnv(s executor.Sandbox) map[string]string {
	env := map[string]string{}
	if f, ok := s.(executor.Furnished); ok {
		for _, pair := range f.Env() {
			key, value, _ := strings.Cut(pair, "=")
			env[key] = value
		}
	}
	return env
}

// signal sends a signal to the job's processes.
func (g *guest) signal(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, endGrace)
	defer cancel()
	c, err := g.connect(ctx)
	if err != nil {
		return err
	}
	if _, err := c.Signal(ctx, connect.NewRequest(&nimbusv1.SignalRequest{Signal: name})); err != nil {
		return fmt.Errorf("signal job: %w", err)
	}
	return nil
}
