package shim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// serveArg makes the program be the shim itself; without it, it launches one.
const serveArg = "--serve"

// startTimeout bounds the launch: starting a process takes milliseconds.
const startTimeout = 20 * time.Second

// Main is the program: `nimbus-shim DIR` starts a shim in DIR that nobody is
// the parent of, and ends once that runs. It returns the exit code.
func Main(args []string, stderr io.Writer) int {
	var err error
	switch {
	case len(args) == 2 && args[0] == serveArg:
		err = serve(args[1])
	case len(args) > 1 && args[0] == guardArg:
		code, err := guard(args[1:])
		if err != nil {
			fmt.Fprintln(stderr, err)
		}
		return code
	case len(args) == 1 && args[0] != "" && args[0][0] != '-':
		err = launch(args[0])
	default:
		fmt.Fprintln(stderr, "nimbus-shim is started by the Nimbus host agent: nimbus-shim DIR")
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// launch starts the shim in a session of its own and waits until it says that
// its process runs, or why not.
func launch(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dir, logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open shim's log: %w", err)
	}
	defer log.Close()
	// Whatever the agent was started with (a lock, a pipe) is not the job's.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(log, "inherited files stay open:", err) // before Linux 5.11
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(self, serveArg, dir)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, log, log
	cmd.ExtraFiles = []*os.File{w} // descriptor 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return fmt.Errorf("start: %w", err)
	}
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return fmt.Errorf("bound the start: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(r, maxMessage))
	if err != nil {
		_ = cmd.Process.Kill() // it did not come up in time
		return fmt.Errorf("wait for the start: %w", err)
	}
	if !bytes.Equal(said, []byte("ok")) {
		return fmt.Errorf("not started: %s", said)
	}
	return nil
}

// server is a running shim.
type server struct {
	dir      string
	log      *slog.Logger
	group    group
	process  process
	deadline *bootTimer
	listener net.Listener
	conns    sync.WaitGroup
	drained  chan struct{} // closed once all output is in the file

	mu    sync.Mutex
	cause Cause // why it was killed; empty until then
	exit  Exit
	ended chan struct{}
}

// serve is the shim's life: start the process, keep the deadline, answer the
// agent, leave the exit.
func serve(dir string) error {
	unix.CloseOnExec(3) // the launcher waits for its last writer: that is us alone
	ready := os.NewFile(3, "ready")
	s, err := start(dir)
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	fmt.Fprint(ready, "ok")
	ready.Close()

	go s.answerAll()
	go s.keepDeadline()
	exit := s.process.wait()
	s.log.Info("process ended", "code", exit.Code, "signal", exit.Signal)
	s.finish(exit)
	return nil
}

// start reads the spec and starts the process. The calling thread stays locked:
// the process dies with it (and so with the shim), and it is in the namespace.
func start(dir string) (*server, error) {
	runtime.LockOSThread()
	if err := os.Chdir(dir); err != nil {
		return nil, fmt.Errorf("go to shim's folder: %w", err)
	}
	// Before anything is touched there: the folder may be another sandbox' by now.
	if err := wanted(); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(specFile)
	if err != nil {
		return nil, fmt.Errorf("read spec: %w", err)
	}
	var spec Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	if (len(spec.Args) == 0) == (spec.Door == nil) || spec.Deadline <= 0 {
		return nil, errors.New("the spec needs a command line or a door, and a deadline")
	}
	// What escapes its parent becomes ours, and is found at the end.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	s := &server{dir: dir, ended: make(chan struct{}), log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if s.deadline, err = newBootTimer(spec.Deadline); err != nil {
		return nil, err
	}
	if s.listener, err = listen(); err != nil {
		return nil, err
	}
	if err := wanted(); err != nil {
		return nil, err
	}
	var complaints []error
	s.group, complaints = makeGroup(spec.Cgroup)
	for _, complaint := range complaints {
		s.log.Warn("cgroup", "error", complaint)
	}
	if spec.Door != nil {
		err = s.openDoor(*spec.Door)
	} else {
		err = s.startProcess(spec)
	}
	if err != nil {
		return nil, errors.Join(err, s.group.remove())
	}
	s.log.Info("started", "pid", s.process.pid(), "deadline", spec.Deadline)
	return s, nil
}

func (s *server) startProcess(spec Spec) error {
	path := spec.Output
	if path == "" {
		path = filepath.Join(s.dir, outputFile)
	}
	cmd := exec.Command(spec.Args[0], spec.Args[1:]...)
	cmd.Env = spec.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Dir = spec.WorkDir
	if cmd.Dir == "" {
		cmd.Dir = s.dir
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if spec.Namespaces {
		ownNamespaces(cmd.SysProcAttr)
	}
	var ready *os.File
	if spec.Guard && os.Geteuid() == 0 { // others can't become another user
		guard, err := guardCommand(cmd)
		if err != nil {
			return err
		}
		ready = guard
		defer ready.Close()
		defer cmd.ExtraFiles[0].Close()
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make output pipe: %w", err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if spec.Netns != "" {
		if err := enterNetns(spec.Netns); err != nil {
			return err
		}
	}
	if err := s.group.enter(); err != nil {
		s.log.Warn("enter cgroup", "error", err)
	}
	err = cmd.Start()
	if leaveErr := s.group.leave(); leaveErr != nil {
		s.log.Warn("leave cgroup", "error", leaveErr)
	}
	w.Close()
	if err != nil {
		r.Close()
		return fmt.Errorf("start %s: %w", filepath.Base(spec.Args[0]), err)
	}
	// Ends with the last writer, which finish kills.
	s.drained = make(chan struct{})
	go func() {
		defer close(s.drained)
		out := &boundedFile{path: path}
		if err := out.drain(r); err != nil {
			s.log.Warn("output", "error", err)
		}
	}()
	s.process = child{cmd}
	if ready == nil {
		return nil
	}
	cmd.ExtraFiles[0].Close() // the guard's own is the last
	below, err := awaitGuarded(child{cmd}, ready)
	if err != nil {
		_ = cmd.Wait() // it has ended with that
		return fmt.Errorf("start %s: %w", filepath.Base(spec.Args[0]), err)
	}
	s.process = below
	return nil
}

// ownNamespaces gives the process its own view of processes, mounts, IPC and
// host name. Without root that takes a user namespace too.
func ownNamespaces(attr *syscall.SysProcAttr) {
	attr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if os.Geteuid() == 0 {
		return
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = idMap(os.Geteuid())
	attr.GidMappings = idMap(os.Getegid())
}

// enterNetns moves the calling thread, which stays locked.
func enterNetns(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// listen makes the socket, by a path that fits into a socket's address.
func listen() (net.Listener, error) {
	if err := os.Remove(socketFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socketFile)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	return l, nil
}

// wanted looks whether somebody gave the sandbox up while its shim came up: who
// does so first leaves a word in its folder, or removes what is in it, then looks
// for a shim that listens. The shim looks after it listens: one sees the other.
func wanted() error {
	if _, err := os.Stat(refusedFile); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(errors.New("its sandbox was given up"), err)
	}
	lies, err := os.Stat(specFile)
	if err != nil {
		return fmt.Errorf("its sandbox was given up: %w", err)
	}
	given, err := os.Stdin.Stat()
	if err != nil {
		return fmt.Errorf("look at the spec: %w", err)
	}
	// An agent of before gives none.
	if given.Mode().IsRegular() && !os.SameFile(lies, given) {
		return errors.New("its sandbox was given up, and another is made in its folder")
	}
	return nil
}

// keepDeadline kills the tree when nobody renewed it in time.
func (s *server) keepDeadline() {
	if s.deadline.wait() {
		s.log.Warn("deadline passed without a renewal")
		s.kill(CauseDeadline)
	}
}

// kill ends the tree; the first cause stays.
func (s *server) kill(cause Cause) {
	s.mu.Lock()
	if s.cause == "" {
		s.cause = cause
	}
	s.mu.Unlock()
	s.group.kill()
	s.process.kill()
}

// finish takes the rest of the tree down, records the exit and lets the last
// callers have it.
func (s *server) finish(exit Exit) {
	if usage, oomKills := s.group.final(); len(s.group.trees) > 0 {
		exit.Usage, exit.OOMKills = usage, oomKills
	}
	s.group.kill()
	killDescendants()
	if err := s.group.remove(); err != nil {
		s.log.Warn("cgroup", "error", err)
	}
	s.awaitOutput()
	s.mu.Lock()
	exit.Cause = s.cause
	if exit.Cause == "" {
		exit.Cause = CauseSelf
	}
	s.exit = exit
	s.mu.Unlock()
	if err := writeExit(".", exit); err != nil {
		s.log.Error("record exit", "error", err)
	}
	close(s.ended)
	s.deadline.stop()
	s.listener.Close()
	s.conns.Wait() // each call is bounded by callTimeout
}

// awaitOutput returns once the last words are in the file: who hears of the
// exit reads them next. A writer that even SIGKILL doesn't end (it is in the
// kernel, on a dead disk) must not hold the exit back.
func (s *server) awaitOutput() {
	select {
	case <-s.drained:
	case <-time.After(callTimeout):
		s.log.Warn("the output is not complete: a process that was killed still holds it")
	}
}

// writeExit leaves the exit where it survives a crash of the machine. The shim
// works in its folder, which may be called otherwise by now.
func writeExit(dir string, e Exit) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode exit: %w", err)
	}
	path := filepath.Join(dir, exitFile)
	if err := wholefile.WriteDurable(path, raw, 0o600); err != nil {
		return fmt.Errorf("leave the exit: %w", err)
	}
	return nil
}

// answerAll serves calls until the listener closes. Only the owner can connect.
func (s *server) answerAll() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.conns.Go(func() {
			defer conn.Close()
			s.answer(conn)
		})
	}
}

func (s *server) answer(conn net.Conn) {
	if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxMessage)).ReadBytes('\n')
	if err != nil {
		return
	}
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return
	}
	if r.Op == opWait || r.Op == opCome {
		// The only calls that may take long: bounded by the caller, who closes.
		if !s.await(conn, r.Op) {
			return
		}
		if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
			return
		}
	}
	_ = json.NewEncoder(conn).Encode(s.do(r)) // a caller that is gone asks again
}

// await waits for the end of the tree or of the connection, or for the tree's
// first process.
func (s *server) await(conn net.Conn, what op) bool {
	var came <-chan struct{}
	if what == opCome {
		came = s.process.came()
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return false
	}
	hangup := make(chan struct{})
	s.conns.Go(func() {
		defer close(hangup)
		_, _ = conn.Read(make([]byte, 1)) // returns at the caller's close, or at ours
	})
	select {
	case <-s.ended:
		return true
	case <-came:
		return true
	case <-hangup:
		return false
	}
}

// over tells whether the tree has ended.
func (s *server) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *server) do(r request) response {
	switch r.Op {
	case opRenew:
		if s.over() {
			return response{Gone: true}
		}
		if r.DeadlineMS <= 0 {
			return response{Error: "a deadline must be in the future"}
		}
		if err := s.deadline.set(time.Duration(r.DeadlineMS) * time.Millisecond); err != nil {
			return response{Error: err.Error()}
		}
		return response{}
	case opKill:
		s.kill(CauseKilled)
		return response{}
	case opStatus:
		return response{PID: s.process.pid()}
	case opCome:
		pid := s.process.pid()
		return response{PID: pid, Gone: pid == 0 || s.over()}
	case opWait:
		s.mu.Lock()
		defer s.mu.Unlock()
		exit := s.exit
		return response{Exit: &exit}
	}
	return response{Error: fmt.Sprintf("unknown call %q", r.Op)}
}
