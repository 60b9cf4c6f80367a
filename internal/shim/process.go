package shim

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What os.ProcessState holds on Linux.
type (
	unixWaitStatus = syscall.WaitStatus
	unixRusage     = *syscall.Rusage
)

// process is the first process of a sandbox.
type process interface {
	pid() int              // 0 before it came
	came() <-chan struct{} // closed once it has
	kill()                 // gone already is fine
	wait() Exit            // returns once it has ended; called once
}

// child is a first process that the shim started.
type child struct{ cmd *exec.Cmd }

func (c child) pid() int { return c.cmd.Process.Pid }

func (child) came() <-chan struct{} {
	there := make(chan struct{})
	close(there)
	return there
}

func (c child) kill() { _ = c.cmd.Process.Kill() }

func (c child) wait() Exit {
	_ = c.cmd.Wait() // its state says all
	state := c.cmd.ProcessState
	exit := Exit{Code: state.ExitCode(), CPUMillis: (state.UserTime() + state.SystemTime()).Milliseconds()}
	if status, ok := state.Sys().(unixWaitStatus); ok && status.Signaled() {
		exit.Signal = unix.SignalName(status.Signal())
	}
	if usage, ok := state.SysUsage().(unixRusage); ok {
		exit.MaxRSSBytes = usage.Maxrss << 10
	}
	return exit
}

// idMap maps root of a new user namespace to id outside.
func idMap(id int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
}

// killDescendants kills and reaps everything that is below the shim: as a
// subreaper it inherits whatever escaped.
func killDescendants() {
	const patience = 5 * time.Second
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) { //nolint:forbidigo // SIGKILL is delivered when the kernel gets to it
		for _, pid := range children() {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already is fine
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if errors.Is(err, unix.ECHILD) {
				return
			}
			if err != nil || pid == 0 {
				break
			}
		}
	}
}

// children lists the direct children of all threads of this process.
func children() (pids []int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	for _, task := range tasks {
		raw, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// bootTimer fires on the boot-time clock, which goes on while the machine
// sleeps: after a long sleep a lease has long been given to somebody else.
type bootTimer struct {
	fd   int
	file *os.File
}

func newBootTimer(d time.Duration) (*bootTimer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make deadline: %w", err)
	}
	t := &bootTimer{fd: fd, file: os.NewFile(uintptr(fd), "deadline")}
	return t, t.set(d)
}

// set makes the timer fire d from now.
func (t *bootTimer) set(d time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	if err := unix.TimerfdSettime(t.fd, 0, &spec, nil); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	return nil
}

// wait returns true once the timer has fired, false after stop.
func (t *bootTimer) wait() bool {
	_, err := t.file.Read(make([]byte, 8))
	return err == nil
}

func (t *bootTimer) stop() { t.file.Close() }
