// Package local runs jobs as processes of this machine, each in namespaces of
// its own for processes, mounts, IPC and host name. That keeps jobs apart by
// accident, not by force: the job is the agent's user. It is for trusted code
// only, and says so wherever it shows.
package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// Files in a sandbox's directory.
const (
	socketFile = "guest.sock"
	tokenFile  = "token"      // the agent's, for as long as the sandbox lives
	onceFile   = "token.once" // the guest's: read and removed at its start
	workDir    = "work"
	tempDir    = "tmp"
)

// startTimeout bounds the start of a guest: a process, no machine.
const startTimeout = 20 * time.Second

// maxProcesses is how many processes a job may have at once.
const maxProcesses = 4096

// detail is what a person reads beside this executor.
const detail = "runs jobs as this user on this machine: trusted code only"

// Config is what the executor needs.
type Config struct {
	Shim, Guest string // paths of the programs
	// Owner tells this agent's cgroups from those of another one on the
	// machine: lower-case letters and digits.
	Owner string
}

// New returns the executor.
func New(cfg Config) *Executor { return &Executor{cfg: cfg} }

// Executor implements executor.Executor.
type Executor struct {
	cfg    Config
	tried  sync.Once
	status nimbus.ExecutorStatus
}

// Name is "local".
func (e *Executor) Name() string { return nimbus.ExecutorLocal }

// Status tries once to start a process in namespaces of its own.
func (e *Executor) Status(ctx context.Context) nimbus.ExecutorStatus {
	e.tried.Do(func() {
		e.status = nimbus.ExecutorStatus{Name: e.Name(), Available: true, Detail: detail}
		if err := e.try(ctx); err != nil {
			e.status.Available = false
			e.status.Detail = "namespaces can't be made: " + err.Error()
			e.status.Hint = "run as root, or allow them: sysctl kernel.unprivileged_userns_clone=1"
		}
	})
	return e.status
}

func (e *Executor) try(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "nimbus-try-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	c, err := shim.Start(ctx, e.cfg.Shim, dir, shim.Spec{Args: []string{"/bin/true"}, Namespaces: true, Deadline: startTimeout})
	if err != nil {
		return err
	}
	exit, err := c.Wait(ctx)
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("a trial process ended with %d: %s", exit.Code, c.Output(200))
	}
	return err
}

// Create starts a guest in namespaces of its own.
func (e *Executor) Create(ctx context.Context, spec executor.Spec) (executor.Sandbox, error) {
	if spec.Class.Image != nimbus.DefaultImage && spec.Class.Image != "" {
		return nil, nimbus.Errorf(nimbus.CodeNotFound, "the local executor has no images: %q was asked for", spec.Class.Image).
			WithHint("leave the image out, or use the microvm executor")
	}
	for _, dir := range []string{workDir, tempDir} {
		if err := os.Mkdir(filepath.Join(spec.Dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("make sandbox folder: %w", err)
		}
	}
	token := rand.Text()
	for _, name := range []string{tokenFile, onceFile} {
		if err := os.WriteFile(filepath.Join(spec.Dir, name), []byte(token), 0o600); err != nil {
			return nil, fmt.Errorf("write token: %w", err)
		}
	}
	client, err := shim.Start(ctx, e.cfg.Shim, spec.Dir, shim.Spec{
		Args: []string{e.cfg.Guest},
		Env: []string{
			"NIMBUS_GUEST_SOCKET=" + socketFile, "NIMBUS_GUEST_TOKEN_FILE=" + onceFile,
			"NIMBUS_GUEST_WORKDIR=" + filepath.Join(spec.Dir, workDir),
			"TMPDIR=" + filepath.Join(spec.Dir, tempDir), "HOME=" + os.Getenv("HOME"),
		},
		Namespaces: true,
		Cgroup: shim.Cgroup{
			Name: e.cgroup(spec.ID), MemoryBytes: int64(spec.Class.MemoryMiB) << 20,
			CPUs: float64(spec.Class.CPUs), PIDs: maxProcesses,
		},
		Deadline: spec.Deadline,
	})
	if err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	s := &sandbox{Shimmed: executor.Shimmed{Shim: client}, executor: e, id: spec.ID, dir: spec.Dir, token: token}
	if err := s.awaitGuest(ctx); err != nil {
		return nil, errors.Join(err, s.Destroy(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Adopt finds a sandbox of an earlier process of the agent.
func (e *Executor) Adopt(_ context.Context, id, dir string) (executor.Sandbox, error) {
	client, err := shim.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nimbus.Errorf(nimbus.CodeNotFound, "there is no sandbox %s", id)
	}
	if err != nil {
		return nil, fmt.Errorf("adopt sandbox: %w", err)
	}
	// Without its token it can't be talked to, but still be destroyed.
	token, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("adopt sandbox: read token: %w", err)
	}
	return &sandbox{Shimmed: executor.Shimmed{Shim: client}, executor: e, id: id, dir: dir, token: string(token)}, nil
}

// Sweep removes the cgroups of sandboxes that aren't kept, and what runs in them.
func (e *Executor) Sweep(_ context.Context, keep func() []string) ([]string, error) {
	names, err := shim.Cgroups(e.cgroup(""))
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	kept := map[string]bool{}
	for _, id := range keep() {
		kept[id] = true
	}
	var removed []string
	for _, name := range names {
		id := strings.TrimPrefix(name, e.cgroup(""))
		if kept[id] {
			continue
		}
		if _, rmErr := shim.RemoveCgroup(name); rmErr != nil {
			err = errors.Join(err, rmErr)
			continue
		}
		removed = append(removed, id)
	}
	return removed, err
}

func (e *Executor) cgroup(id string) string { return e.cfg.Owner + "-local-" + id }

// sandbox implements executor.Sandbox.
type sandbox struct {
	executor.Shimmed
	executor *Executor
	id, dir  string
	token    string
}

func (s *sandbox) ID() string { return s.id }

func (s *sandbox) Token() string { return s.token }

// Network is the machine's own.
func (s *sandbox) Network() *nimbusv1.NetworkConfig { return nil }

func (s *sandbox) Dial(ctx context.Context) (net.Conn, error) {
	return executor.DialUnix(ctx, s.dir, socketFile)
}

// awaitGuest waits until the guest listens.
func (s *sandbox) awaitGuest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ended := make(chan struct{})
	var exit executor.Exit
	go func() {
		if e, err := s.Wait(ctx); err == nil {
			exit = e
			close(ended)
		}
	}()
	conn, err := executor.AwaitUnix(ctx, s.dir, socketFile, ended)
	if err == nil {
		return conn.Close()
	}
	select {
	case <-ended:
		return fmt.Errorf("start sandbox: the guest ended with %d: %s", exit.Code, exit.Detail)
	default:
		return err
	}
}

// Usage implements executor.Metered. The network is the machine's, and not counted.
func (s *sandbox) Usage(ctx context.Context) (nimbus.UsageSample, error) {
	u, _, err := s.Measure(ctx)
	return u, err
}

// Wait returns how the guest ended, of which nothing is left then.
func (s *sandbox) Wait(ctx context.Context) (executor.Exit, error) {
	exit, err := s.Shimmed.Wait(ctx)
	if err == nil && exit.Cause == executor.ExitSelf {
		exit.Why = "its guest agent, the sandbox' first process, ended"
		if exit.Signal != "" {
			exit.Why = "its guest agent, the sandbox' first process, was ended by " + exit.Signal
		}
	}
	return exit, err
}

// Destroy kills the processes; their folder is the agent's to remove.
func (s *sandbox) Destroy(ctx context.Context) error {
	if err := s.End(ctx); err != nil {
		return err
	}
	// The shim removed it, unless it was killed itself.
	if _, err := shim.RemoveCgroup(s.executor.cgroup(s.id)); err != nil {
		return fmt.Errorf("destroy sandbox: %w", err)
	}
	return nil
}
