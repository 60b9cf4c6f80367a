package pages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// recordFor is how long the pages that a machine needs count as those that it
// needs first.
const recordFor = 10 * time.Second

// Main runs the page server of a spec until its monitor ends, and returns the
// monitor's exit code.
func Main(path string, stderr io.Writer) int {
	code, err := run(path, slog.New(slog.NewTextHandler(stderr, nil)))
	if err != nil {
		fmt.Fprintln(stderr, "page server:", err)
		return max(code, 1)
	}
	return code
}

func run(path string, log *slog.Logger) (int, error) {
	runtime.LockOSThread() // the monitor is told of the end of the thread that started it
	spec, err := readSpec(path)
	if err != nil {
		return 1, err
	}
	memory, err := os.Open(spec.Memory)
	if err != nil {
		return 1, fmt.Errorf("open memory file: %w", err)
	}
	defer memory.Close()
	listener, err := listen(spec)
	if err != nil {
		return 1, err
	}
	defer listener.Close()

	monitor := exec.Command(spec.Command[0], spec.Command[1:]...)
	monitor.Env = []string{}
	monitor.Stdin, monitor.Stdout, monitor.Stderr = os.Stdin, os.Stdout, os.Stderr
	monitor.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := monitor.Start(); err != nil {
		return 1, fmt.Errorf("start monitor: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		err := spec.serve(ctx, listener, memory, log)
		if err != nil {
			// A machine whose faults nobody serves would hang for ever.
			err = errors.Join(err, monitor.Process.Kill())
		}
		served <- err
	}()
	_ = monitor.Wait() // its state tells how it ended
	cancel()
	listener.Close()
	err = <-served
	return exitCode(monitor.ProcessState), err
}

// exitCode is a shell's: 128 and more for a signal.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// listen makes the socket in the monitor's folder, by a path that fits into a
// socket's address.
func listen(spec Spec) (*net.UnixListener, error) {
	dir, err := os.Open(spec.SocketDir)
	if err != nil {
		return nil, fmt.Errorf("listen for monitor: %w", err)
	}
	defer dir.Close()
	path := filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), spec.SocketName)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for monitor: %w", err)
	}
	listener.SetUnlinkOnClose(false) // the folder is the monitor's by then
	if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, spec.UID, -1)); err != nil {
		listener.Close()
		return nil, fmt.Errorf("listen for monitor: %w", err)
	}
	return listener, nil
}

// serve waits for the monitor and serves it. One that never comes is no error:
// it may end before it has loaded anything.
func (spec Spec) serve(ctx context.Context, listener *net.UnixListener, memory *os.File, log *slog.Logger) error {
	conn, err := listener.AcceptUnix()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("accept monitor: %w", err)
	}
	defer conn.Close()
	listener.Close() // there is one monitor, and it says one thing
	info, err := memory.Stat()
	if err != nil {
		return fmt.Errorf("read memory file: %w", err)
	}
	cfg := Config{UID: spec.UID, RecordFor: recordFor}
	if spec.WorkingSet != "" {
		if cfg.Ahead, err = readWorkingSet(spec.WorkingSet, info.Size()); err != nil {
			log.Warn("without a working set", "error", err) // it is a hint
		} else if cfg.Ahead == nil {
			cfg.Record = func(needed []uint32) {
				if err := writeWorkingSet(spec.WorkingSet, info.Size(), needed); err != nil {
					log.Warn("working set not kept", "error", err)
				}
			}
		}
	}
	stats, err := Serve(ctx, conn, memory, cfg)
	log.Info("pages served", "faults", stats.Faults, "prefetched", stats.Prefetched, "zeroed", stats.Zeroed, "removals", stats.Removals)
	return err
}
