package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
)

// sandbox implements executor.Sandbox.
type sandbox struct {
	executor.Shimmed

	executor *Executor
	id, dir  string
	machine  string // the name of its container and network
	token    string
	pid      int // of the guest, of one that was made here
	slot     netslot.Slot
	picture  picture
	devices  *Devices // nil for none
	carried  carried
	origin   nimbus.Origin

	mu   sync.Mutex
	used nimbus.UsageSample // the most that was seen
}

func (s *sandbox) ID() string { return s.id }

// Env is what the image sets, and what its devices do.
func (s *sandbox) Env() []string { return slices.Concat(s.picture.env, s.devices.env()) }

// Origin is what the container was made of.
func (s *sandbox) Origin() nimbus.Origin { return s.origin }

func (s *sandbox) Token() string { return s.token }

// Network is nil: nobody in the container can set one up, and it has its own.
func (s *sandbox) Network() *nimbusv1.NetworkConfig { return nil }

// Refused implements executor.Fenced.
func (s *sandbox) Refused(context.Context) ([]executor.Refusal, error) {
	if s.slot.Netns == "" {
		return nil, nil
	}
	return s.executor.slots.Refused(s.machine)
}

func (s *sandbox) Dial(ctx context.Context) (net.Conn, error) {
	return executor.DialUnix(ctx, s.dir, socketFile)
}

// connect gives the container its network. The process is held by the shim: if
// that still runs once its namespace is open, it was no other's.
func (s *sandbox) connect(ctx context.Context) error {
	inside, err := os.Open(filepath.Join("/proc", strconv.Itoa(s.pid), "ns/net"))
	if err != nil {
		return fmt.Errorf("open the container's network: %w", err)
	}
	defer inside.Close()
	if _, err := s.Shim.PID(ctx); err != nil {
		return fmt.Errorf("the container has ended: %w", err)
	}
	if err := notOurs(inside); err != nil {
		return err
	}
	return s.executor.slots.Connect(s.machine, inside)
}

// notOurs makes sure that it is not the host's network that is about to be
// changed.
func notOurs(inside *os.File) error {
	var theirs, ours unix.Stat_t
	if err := errors.Join(unix.Fstat(int(inside.Fd()), &theirs), unix.Stat("/proc/self/ns/net", &ours)); err != nil {
		return fmt.Errorf("look at the container's network: %w", err)
	}
	if theirs.Ino == ours.Ino && theirs.Dev == ours.Dev {
		return errors.New("the container has the host's network")
	}
	return nil
}

// Usage implements executor.Metered. What a container has used in all is read by
// its shim as it ends, and may be missed where its daemon is faster, as is I/O
// that processes alone can tell of: then what was seen last stands.
func (s *sandbox) Usage(ctx context.Context) (nimbus.UsageSample, error) {
	u, member, err := s.Measure(ctx)
	if err != nil {
		return u, err
	}
	if member != 0 {
		if u.SentBytes, u.ReceivedBytes, err = netslot.TrafficInside(member); err != nil {
			return u, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = nimbus.UsageSample{
		CPU: max(u.CPU, s.used.CPU), MemoryBytes: u.MemoryBytes,
		ReadBytes: max(u.ReadBytes, s.used.ReadBytes), WrittenBytes: max(u.WrittenBytes, s.used.WrittenBytes),
		SentBytes: max(u.SentBytes, s.used.SentBytes), ReceivedBytes: max(u.ReceivedBytes, s.used.ReceivedBytes),
	}
	return s.used, nil
}

// Wait returns how the container ended: its shim knows when and by whom, its
// daemon how.
func (s *sandbox) Wait(ctx context.Context) (executor.Exit, error) {
	exit, err := s.Shimmed.Wait(ctx)
	if err != nil {
		return exit, err
	}
	state, err := s.executor.daemon.state(ctx, s.machine)
	if err != nil || state.Running {
		return exit, nil //nolint:nilerr // removed, or the daemon is away: that it has ended is known
	}
	const signalled = 128
	exit.Code = state.ExitCode
	if state.ExitCode > signalled {
		exit.Code, exit.Signal = -1, unix.SignalName(unix.Signal(state.ExitCode-signalled))
	}
	exit.Detail = s.executor.daemon.lastWords(ctx, s.machine)
	exit.OutOfMemory = exit.OutOfMemory || state.OOMKilled
	if exit.Cause == executor.ExitSelf {
		exit.Why = "its guest agent, the container's first process, ended"
		if exit.Signal != "" {
			exit.Why = "its guest agent, the container's first process, was ended by " + exit.Signal
		}
	}
	return exit, nil
}

// Destroy ends the container and removes it with its disks and its network.
func (s *sandbox) Destroy(ctx context.Context) error {
	if s.Shim != nil {
		if err := s.Kill(ctx); err != nil {
			return err
		}
		if _, err := s.Shimmed.Wait(ctx); err != nil {
			return err
		}
	}
	if err := s.executor.remove(ctx, s.machine); err != nil {
		return fmt.Errorf("destroy sandbox: %w", err)
	}
	// The folder is the agent's; what the job wrote goes at once.
	for n := range maxDisks {
		if err := os.Remove(diskFile(s.dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("destroy sandbox: %w", err)
		}
	}
	return nil
}
