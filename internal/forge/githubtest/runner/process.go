package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// How a step is ended: each signal goes to its whole process group and is
// followed by the next unless it ended. The times are GitHub's.
const (
	afterInterrupt = 7500 * time.Millisecond
	afterTerminate = 2500 * time.Millisecond
	// A process that the step left running may hold its output open; that
	// long is it read on.
	drainOutput = time.Second
)

// runShell runs a shell and returns its exit code and process group. A signal that
// ended it gives 128 + its number, as in a shell.
func runShell(ctx context.Context, shell string, args []string, dir string, env []string, out io.Writer) (code, group int, err error) {
	cmd := exec.Command(shell, args...) // cancelled below, with the whole group
	cmd.Dir, cmd.Env = dir, env
	cmd.Stdout, cmd.Stderr = out, out // one pipe: the order is kept
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = drainOutput
	if err := ctx.Err(); err != nil {
		return 1, 0, err
	}
	if err := cmd.Start(); err != nil {
		return 1, 0, fmt.Errorf("start %s: %w", shell, err)
	}
	group = cmd.Process.Pid
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = endGroup(group, done)
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return cmd.ProcessState.ExitCode(), group, nil
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), group, nil
		}
		return exit.ExitCode(), group, nil
	}
	return 1, group, fmt.Errorf("run %s: %w", shell, err)
}

// endGroup ends a process group and returns what Wait said.
func endGroup(group int, done <-chan error) error {
	for _, stage := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, afterInterrupt}, {syscall.SIGTERM, afterTerminate}} {
		_ = syscall.Kill(-group, stage.signal) // it may have ended just now
		select {
		case err := <-done:
			return err
		case <-time.After(stage.wait):
		}
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
	return <-done
}

// killGroups ends what steps left running.
func killGroups(groups []int) {
	for _, group := range groups {
		_ = syscall.Kill(-group, syscall.SIGKILL) // ESRCH: nothing is left
	}
}
