package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A process whose parent ends is killed by the kernel if it asked for that, but
// one that becomes another user meanwhile, as monitors do, has asked in vain. So
// there is a guard above it: the first of a PID namespace, which stays what it
// is, dies with the shim, and takes all of the namespace along.

// guardArg begins the command line of a guard; what follows is the process'.
const guardArg = "--guard"

// signalled is added to the number of a signal that ended the process, in the
// exit code of its guard: the first of a namespace can't end itself by one.
const signalled = 128

// guardCommand puts a guard above a command. What it writes to the returned file
// before it closes is why the process was not started.
func guardCommand(cmd *exec.Cmd) (ready *os.File, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	cmd.Args = append([]string{self, guardArg, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.ExtraFiles = self, []*os.File{w} // descriptor 3
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
	return r, nil
}

// guard starts a process and ends with it, as the first of a PID namespace. The
// code is that of the process.
func guard(args []string) (code int, err error) {
	unix.CloseOnExec(3)
	ready := os.NewFile(3, "ready")
	process, err := os.StartProcess(args[0], args, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		fmt.Fprint(ready, err)
		return 1, err
	}
	ready.Close()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil) // others that end here have no parent any more
		switch {
		case errors.Is(err, unix.EINTR) || err == nil && pid != process.Pid:
		case err != nil:
			return 1, fmt.Errorf("wait for the process: %w", err)
		case status.Signaled():
			return signalled + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}

// guarded is a first process below its guard.
type guarded struct {
	child

	number int // of the process
}

// awaitGuarded returns once the process below a guard runs.
func awaitGuarded(c child, ready io.Reader) (guarded, error) {
	const most = 4 << 10
	why, err := io.ReadAll(io.LimitReader(ready, most))
	if err != nil {
		return guarded{}, fmt.Errorf("hear of the guard: %w", err)
	}
	if len(why) > 0 {
		return guarded{}, errors.New(string(why))
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.pid()))
	if err != nil {
		return guarded{}, fmt.Errorf("find the process below its guard: %w", err)
	}
	for _, task := range tasks {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", c.pid(), task.Name()))
		if err != nil {
			continue
		}
		if fields := strings.Fields(string(raw)); len(fields) > 0 {
			pid, err := strconv.Atoi(fields[0])
			return guarded{c, pid}, err
		}
	}
	return guarded{c, c.pid()}, nil // it has ended already
}

func (g guarded) pid() int { return g.number }

func (g guarded) wait() Exit {
	exit := g.child.wait()
	if exit.Code > signalled {
		exit.Code, exit.Signal = -1, unix.SignalName(unix.Signal(exit.Code-signalled))
	}
	return exit
}
