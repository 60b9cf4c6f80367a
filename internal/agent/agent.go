// Package agent is the host agent: it takes jobs from the control plane, gives
// each a sandbox, and brings back its log and its end. One loop per file:
//
//	poll.go       asks for work, accepts offers, hears of cancellations
//	heartbeat.go  renews all leases in one call, and with them the shims' deadlines
//	attempt.go    one attempt, from accepted to destroyed
//	pressure.go   whether the host can bear more jobs
//	usage.go      what each sandbox uses, each second
//	output.go     the guest's output into lines on disk
//	ship.go       lines to the server until it has them all
//	telemetry.go  what jobs tell by OTLP: read, stamped, kept (spool.go), sent on
//	adopt.go      takes running attempts over from an earlier process
//	agent.go      lets executors keep sandboxes ready
//	equipment.go  hardware that jobs get for themselves
//	shell.go      shells in a sandbox, by calls that the agent makes
//	cachedoor.go  stands between jobs of GitHub's and GitHub's cache
//	keep.go       a sandbox that stays after its job has failed
//	sweep.go      removes what belongs to nobody
//	session.go    opens the next session while the one before lasts
//
// Two verbs end an agent's work: it stops (SIGTERM: no new work, sandboxes are
// left to their shims and adopted by the next agent), or an attempt is
// cancelled (its sandbox ends).
package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/datadir"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Config is what an agent needs. Zero fields mean their defaults.
type Config struct {
	Server    string // address of the control plane
	Data      string // the agent's own directory
	Keys      string // folder in memory for the key by which secrets in Data are sealed; default: keyFolders
	Name      string // how the host is called; default the host's name
	Version   string
	JoinToken string // needed until the host has joined

	Executors []executor.Executor
	// Runners is how the GitHub runner is started, by executor. An executor
	// without one takes native jobs alone.
	Runners map[string]Runner

	// CPUs, MemoryMiB and MaxSandboxes bound what runs at once. Defaults: the
	// machine's CPUs, three quarters of its memory, 64.
	CPUs         int
	MemoryMiB    int
	MaxSandboxes int
	// OvercommitCPU and OvercommitMemory are how often each CPU and MiB is given
	// out. Default: once.
	OvercommitCPU    float64
	OvercommitMemory float64
	// Pressure is from where on the host asks for no more jobs. Default: never.
	Pressure Thresholds

	// ReclaimDisk is from how many percent of a disk in use on images that can be
	// had again are removed from it. Default: never.
	ReclaimDisk int
	// Capabilities are words that jobs can need, besides those that the machine
	// itself shows.
	Capabilities []string
	// Network are the profiles that jobs may have here. Default: all, without
	// "internet" where Reach is set. "none" always is among them.
	Network []nimbus.NetworkProfile
	// Reach are the names that jobs may ask to reach at most; none means any.
	Reach nimbus.Names
	// MaxLogBytes bounds one job's log. Default 1 GiB.
	MaxLogBytes int64

	// CacheURL is where jobs of an executor reach the cache, with a "/" at its end;
	// "" where they can't. nil: nowhere.
	CacheURL func(executor string) string
	// CacheDoor stands between jobs of GitHub's and GitHub's cache service. nil:
	// nothing does.
	CacheDoor CacheDoor
	// Copies are the contents of the cache on this host's disk. nil: it tells
	// nothing of what it is asked for.
	Copies Copies
	// Beside runs as long as the agent does, by name.
	Beside map[string]func(context.Context) error

	TLS  *tls.Config  // whom to trust, and how to be known; nil: the system's trust
	HTTP *http.Client // default: one with HTTP/2 and no timeout of its own
	Log  *slog.Logger
}

// Runner is how the GitHub runner of an image is started.
type Runner struct {
	Command []string
	User    string // of the image; "" for root
	Env     map[string]string
	// Diagnostics are the folders of which one will have the runner's pages.
	Diagnostics []string
	// Version tells which of GitHub's own runner is inside; "" for none. nil:
	// there never is one.
	Version func() string
}

func (c Config) withDefaults() (Config, error) {
	if _, err := wire.CheckServer(c.Server); err != nil {
		return c, err
	}
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("find the host's name: %w", err)
		}
		c.Name = name
	}
	if c.CPUs == 0 {
		c.CPUs = runtime.NumCPU()
	}
	if c.MemoryMiB == 0 {
		total, err := memoryMiB()
		if err != nil {
			return c, err
		}
		c.MemoryMiB = total * 3 / 4
	}
	if c.MaxSandboxes == 0 {
		c.MaxSandboxes = 64
	}
	for _, factor := range []*float64{&c.OvercommitCPU, &c.OvercommitMemory} {
		if *factor = cmp.Or(*factor, 1); !(*factor >= 1 && *factor <= maxOvercommit) {
			return c, nimbus.Errorf(nimbus.CodeInvalid, "what there is can't be given out %v times", *factor).
				WithHint("an over-commit factor is 1 to %d", maxOvercommit)
		}
	}
	if c.ReclaimDisk < 0 || c.ReclaimDisk > 100 {
		return c, nimbus.Errorf(nimbus.CodeInvalid, "room is made on a disk of which %d percent are in use", c.ReclaimDisk).WithHint("it is 1 to 100, or 0 for never")
	}
	if err := c.Pressure.check(); err != nil {
		return c, err
	}
	if len(c.Network) == 0 {
		c.Network = slices.DeleteFunc(nimbus.NetworkProfiles(), func(p nimbus.NetworkProfile) bool {
			return p == nimbus.NetworkInternet && c.Reach != ""
		})
	}
	if !slices.Contains(c.Network, nimbus.NetworkNone) {
		c.Network = append(slices.Clone(c.Network), nimbus.NetworkNone)
	}
	if c.MaxLogBytes == 0 {
		c.MaxLogBytes = 1 << 30
	}
	if c.HTTP == nil {
		c.HTTP = httpClient(c.TLS)
	}
	return c, nil
}

// maxOvercommit is how often at most anything is given out.
const maxOvercommit = 16

// httpClient speaks HTTP/2, also without TLS on this machine: one connection
// carries the long poll, the heartbeats and the logs.
func httpClient(encryption *tls.Config) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{
		Transport: &http.Transport{
			Protocols:           &protocols,
			ForceAttemptHTTP2:   true,
			HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
			TLSClientConfig:     encryption,
			TLSHandshakeTimeout: callTimeout,
		},
		// A redirect could carry the token to another server, or into the clear.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Agent is a host agent. It implements lifecycle.Service.
type Agent struct {
	cfg       Config
	log       *slog.Logger
	control   nimbusv1connect.AgentServiceClient
	session   *session
	executors map[string]executor.Executor
	decoding  chan struct{}    // held while telemetry of a job is in memory, decoded
	has       nimbus.Inventory // all but what its executors say
	capacity  *capacity
	sealer    *sealer // valid while it runs
	pressure  pressure
	equipped  chan struct{} // holds one where hardware that jobs get has changed

	sweeping sync.Mutex // held while an executor sweeps

	mu       sync.Mutex
	attempts map[string]*attempt
	// renewed is when the last confirmed renewal of all leases was sent.
	running sync.WaitGroup
}

// New makes an agent of a checked configuration.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	has := hardware(os.DirFS("/"), cfg.Data)
	has.CPUs, has.MemoryMiB, has.Sandboxes = cfg.CPUs, cfg.MemoryMiB, cfg.MaxSandboxes
	if cfg.OvercommitCPU > 1 {
		has.GivesCPUs = int(float64(cfg.CPUs) * cfg.OvercommitCPU)
	}
	if cfg.OvercommitMemory > 1 {
		has.GivesMemoryMiB = int(float64(cfg.MemoryMiB) * cfg.OvercommitMemory)
	}
	has.Network, has.Reach, has.Shells = cfg.Network, cfg.Reach, true
	has.Capabilities = append(has.Capabilities, cfg.Capabilities...)
	slices.Sort(has.Capabilities)
	has.Capabilities = slices.Compact(has.Capabilities)
	if err := has.Check(); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log, executors: map[string]executor.Executor{}, attempts: map[string]*attempt{},
		has: has, capacity: newCapacity(has.Total()), equipped: make(chan struct{}, 1),
	}
	for _, e := range cfg.Executors {
		a.executors[e.Name()] = e
	}
	a.session = newSession(filepath.Join(cfg.Data, "credential.json"), cfg)
	a.decoding = make(chan struct{}, decodingAtOnce)
	a.control = nimbusv1connect.NewAgentServiceClient(cfg.HTTP, cfg.Server,
		connect.WithInterceptors(a.session, wire.Caller{Token: a.session.token}), connect.WithReadMaxBytes(8<<20))
	return a, nil
}

// Name implements lifecycle.Service.
func (a *Agent) Name() string { return "agent" }

// Run joins if need be, adopts what an earlier process left, and works until
// ctx ends. It calls ready once the control plane knows of this host. Running
// jobs go on without it, for as long as their shims let them. Codes: conflict
// when another agent uses the directory.
func (a *Agent) Run(ctx context.Context, ready func()) (err error) {
	// Two agents of one directory would take each other's sandboxes for their own.
	locked, err := datadir.Lock(a.cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, locked.Close()) }()
	if err := os.MkdirAll(a.attemptsDir(), 0o700); err != nil {
		return fmt.Errorf("make the agent's folder: %w", err)
	}
	folders := keyFolders()
	if a.cfg.Keys != "" {
		folders = []string{a.cfg.Keys}
	}
	if a.sealer, err = openSealer(a.cfg.Data, folders); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.forgetKey()) }()
	if err := a.join(ctx); err != nil {
		return err
	}
	if err := a.adoptAll(ctx); err != nil {
		return err
	}
	ready()
	var loops sync.WaitGroup
	all := map[string]func(context.Context) error{
		"poll": a.runPollLoop, "heartbeat": a.runHeartbeatLoop, "sweep": a.runSweepLoop, "session": a.session.run,
		"pressure": a.runPressureLoop, "usage": a.runUsageLoop, "tell usage": a.runTellUsageLoop,
	}
	maps.Copy(all, a.cfg.Beside)
	for name, loop := range all {
		loops.Go(func() {
			if err := loop(ctx); err != nil && ctx.Err() == nil {
				a.log.ErrorContext(ctx, "loop ended", "loop", name, "error", err)
			}
		})
	}
	for _, e := range a.cfg.Executors {
		if w, ok := e.(executor.Warmer); ok {
			loops.Go(func() { a.keepWarm(ctx, e.Name(), w) })
		}
		if f, ok := e.(executor.Fetcher); ok {
			loops.Go(func() { f.KeepImages(ctx, func() bool { return a.pressure.now().Closed == "" }) })
		}
		if eq, ok := e.(executor.Equipped); ok {
			loops.Go(func() { a.watch(ctx, e.Name(), eq) })
		}
	}
	loops.Wait()
	a.running.Wait()
	return nil
}

// forgetKey removes the key where no attempt is left for the next agent.
func (a *Agent) forgetKey() error {
	if left, err := os.ReadDir(a.attemptsDir()); err != nil || len(left) > 0 {
		return nil //nolint:nilerr // a key that stays harms nobody
	}
	return a.sealer.forget()
}

func (a *Agent) attemptsDir() string { return filepath.Join(a.cfg.Data, "attempts") }

// inventory is what this host has, asked anew from its executors.
func (a *Agent) inventory(ctx context.Context) nimbus.Inventory {
	inv := a.has
	for _, e := range a.cfg.Executors {
		inv.Executors = append(inv.Executors, a.status(ctx, e))
		if version := a.cfg.Runners[e.Name()].Version; version != nil {
			inv.RunnerVersion = version()
		}
	}
	a.equip(&inv)
	return inv
}

// status is what an executor says of itself. Of what its jobs lack it matters
// what the machine has; the operator's own words are true of all.
func (a *Agent) status(ctx context.Context, e executor.Executor) nimbus.ExecutorStatus {
	s := e.Status(ctx)
	words := slices.DeleteFunc(s.Lacks.Words(), func(word string) bool {
		return !slices.Contains(a.has.Capabilities, word) || slices.Contains(a.cfg.Capabilities, word)
	})
	s.Lacks = nimbus.Capabilities(strings.Join(words, " "))
	return s
}

// free is what the host has free now, and what its executors have ready: nothing
// while it is pressed. More tells when there is more of it.
func (a *Agent) free() (c nimbus.Capacity, more <-chan struct{}) {
	c, more = a.capacity.now()
	if a.cfg.Copies != nil {
		c.Copies = a.cfg.Copies.Copies()
	}
	if c.Load = a.pressure.now(); c.Load.Closed != "" {
		return nimbus.Capacity{Load: c.Load, Copies: c.Copies}, more
	}
	for _, e := range a.cfg.Executors {
		if w, ok := e.(executor.Warmer); ok {
			for _, class := range w.Warm() {
				c.Warm = append(c.Warm, class.ID())
			}
		}
	}
	slices.Sort(c.Warm)
	return c, more
}

// keepWarm lets an executor keep sandboxes ready for as long as ctx lasts. Each
// change is told with the next poll, which comes at once.
func (a *Agent) keepWarm(ctx context.Context, name string, w executor.Warmer) {
	free := func() nimbus.Capacity {
		if a.pressure.now().Closed != "" {
			return nimbus.Capacity{}
		}
		c, _ := a.capacity.now()
		return c
	}
	if err := w.KeepWarm(ctx, free, a.capacity.tell); err != nil && ctx.Err() == nil {
		a.log.InfoContext(ctx, "no sandboxes are kept ready", "executor", name, "reason", err)
	}
}

// add starts working on attempts that are not known yet: all of them are, before
// the first is worked on.
func (a *Agent) add(ctx context.Context, all ...*attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range all {
		id := t.lease().AttemptID
		if a.attempts[id] != nil {
			continue
		}
		a.attempts[id] = t
		a.running.Go(func() {
			t.run(ctx)
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.attempts, id)
		})
	}
}

// current lists the attempts that are worked on.
func (a *Agent) current() []*attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*attempt, 0, len(a.attempts))
	for _, t := range a.attempts {
		out = append(out, t)
	}
	return out
}

func (a *Agent) find(attemptID string) *attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.attempts[attemptID]
}

// backoff waits between tries: longer each time, never long.
type backoff struct {
	next time.Duration
}

const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 5 * time.Second
)

// wait returns false when ctx ended.
func (b *backoff) wait(ctx context.Context) bool { return b.waitFor(ctx, 0) }

// waitFor waits no shorter than the other side asked for, up to a minute.
func (b *backoff) waitFor(ctx context.Context, asked time.Duration) bool {
	b.next = min(max(2*b.next, backoffFirst), backoffMost)
	timer := time.NewTimer(max(jitter(b.next), min(asked, time.Minute)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retryable tells whether the same call may succeed later: the control plane
// is away or busy. Everything else stays as it is.
func retryable(err error) bool {
	switch nimbus.ErrorCode(err) {
	case nimbus.CodeUnavailable, nimbus.CodeRateLimited, nimbus.CodeInternal,
		nimbus.CodeCancelled: // by a control plane that stopped while it answered
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}

// callTimeout bounds one call to the control plane that does not wait there.
const callTimeout = 15 * time.Second

// call makes a call until it is answered for good: retried while the control
// plane is away, for as long as ctx lasts.
func call[Q, R any](ctx context.Context, rpc func(context.Context, *connect.Request[Q]) (*connect.Response[R], error), request *Q) (*R, error) {
	var pause backoff
	for {
		tryCtx, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := rpc(tryCtx, connect.NewRequest(request))
		cancel()
		if err == nil {
			return answer.Msg, nil
		}
		if !retryable(err) || !pause.waitFor(ctx, nimbus.ErrorRetryAfter(err)) {
			return nil, err
		}
	}
}
