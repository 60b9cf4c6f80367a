package executor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// detailBytes is how much of a process' last words an Exit carries.
const detailBytes = 2 << 10

// Shimmed is the part of a Sandbox that its shim does: executors embed it.
type Shimmed struct {
	Shim *shim.Client
}

// Renew moves the shim's deadline.
func (s Shimmed) Renew(ctx context.Context, d time.Duration) error {
	if err := s.Shim.Renew(ctx, d); err != nil {
		return fmt.Errorf("renew sandbox: %w", err)
	}
	return nil
}

// Wait returns how the sandbox ended.
func (s Shimmed) Wait(ctx context.Context) (Exit, error) {
	e, err := s.Shim.Wait(ctx)
	if err != nil {
		return Exit{}, fmt.Errorf("wait for sandbox: %w", err)
	}
	return Exit{Cause: ExitCause(e.Cause), Code: e.Code, Signal: e.Signal, OutOfMemory: e.OOMKills > 0,
		Detail: Printable(s.Shim.Output(detailBytes))}, nil
}

// OutOfMemory implements Limited.
func (s Shimmed) OutOfMemory(ctx context.Context) (bool, error) {
	if s.Shim == nil {
		return false, nil
	}
	n, err := s.Shim.OOMKills(ctx)
	if err != nil {
		return false, fmt.Errorf("look whether memory ran out: %w", err)
	}
	return n > 0, nil
}

// Measure is what Metered wants, but for the network, and a process of the sandbox
// through which that can be read; 0 for none. It is for those whose shim has them
// in a cgroup of its own.
func (s Shimmed) Measure(ctx context.Context) (nimbus.UsageSample, int, error) {
	if s.Shim == nil {
		return nimbus.UsageSample{}, 0, errors.New("measure sandbox: it was never started")
	}
	u, err := s.Shim.Usage(ctx)
	if err != nil {
		return nimbus.UsageSample{}, 0, fmt.Errorf("measure sandbox: %w", err)
	}
	return nimbus.UsageSample{CPU: u.CPU, MemoryBytes: u.MemoryBytes, ReadBytes: u.ReadBytes, WrittenBytes: u.WrittenBytes}, u.Member, nil
}

// Kill ends every process of the sandbox.
func (s Shimmed) Kill(ctx context.Context) error {
	if err := s.Shim.Kill(ctx); err != nil {
		return fmt.Errorf("kill sandbox: %w", err)
	}
	return nil
}

// End kills the sandbox and waits until its shim has confirmed the end.
func (s Shimmed) End(ctx context.Context) error {
	if err := s.Kill(ctx); err != nil {
		return err
	}
	_, err := s.Wait(ctx)
	return err
}

// Printable makes a sandbox' own words fit for an operator's log.
func Printable(raw []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, string(raw)))
}

// DialUnix connects to the unix socket of that name in dir, whose path may be
// longer than a socket's address holds.
func DialUnix(ctx context.Context, dir, name string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open sandbox folder: %w", err)
	}
	defer d.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), name))
	if err != nil {
		return nil, fmt.Errorf("dial sandbox: %w", err)
	}
	return conn, nil
}

// AwaitUnix dials until somebody listens, within ctx or until ended says that
// nobody will.
func AwaitUnix(ctx context.Context, dir, name string, ended <-chan struct{}) (net.Conn, error) {
	const interval = 5 * time.Millisecond
	for {
		conn, err := DialUnix(ctx, dir, name)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(interval):
		case <-ended:
			return nil, errors.New("dial sandbox: it ended before it could be reached")
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}
