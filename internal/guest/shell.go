package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

const (
	// maxShells is how many shells a sandbox has at once. With streamBuffer it
	// keeps their input from filling what the connection takes.
	maxShells = 4
	// hangupGrace is how long a shell whose caller is gone may take to end.
	hangupGrace = time.Second
	// endOfInput is what a terminal takes for the end of its input.
	endOfInput = 0x04
)

// shellPaths are looked for where no command is given.
var shellPaths = []string{"/bin/bash", "/usr/bin/bash", "/bin/sh"}

// runnerSecrets are variables of the job's environment that are of use to
// GitHub's runner alone.
var runnerSecrets = []string{"ACTIONS_RUNNER_INPUT_JITCONFIG"}

// shell is one that runs.
type shell struct {
	process  *os.Process
	terminal *os.File // nil for none
	input    *os.File
	outputs  map[string]*os.File // by stream
	stream   *connect.BidiStream[nimbusv1.ShellRequest, nimbusv1.ShellResponse]
	sending  sync.Mutex
}

// Shell implements nimbusv1connect.GuestServiceHandler.
func (s *service) Shell(ctx context.Context, stream *connect.BidiStream[nimbusv1.ShellRequest, nimbusv1.ShellResponse]) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	if first.GetStart() == nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("a shell begins with what it runs"))
	}
	job, err := s.enterShell()
	if err != nil {
		return err
	}
	defer s.leaveShell()
	sh, err := s.startShell(job, first.GetStart())
	if err != nil {
		return err
	}
	sh.stream = stream
	return sh.run(ctx, s.tree)
}

// enterShell returns what the job was started with, for one shell more.
func (s *service) enterShell() (*nimbusv1.StartRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.started == nil:
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the job was not started yet"))
	case s.shells >= maxShells:
		return nil, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("the sandbox has %d shells already", maxShells))
	}
	s.shells++
	return s.started, nil
}

func (s *service) leaveShell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shells--
}

// startShell starts a command as the job was started.
func (s *service) startShell(job *nimbusv1.StartRequest, spec *nimbusv1.ShellSpec) (*shell, error) {
	as, err := lookAccount(job.GetUser())
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	dir := job.GetWorkingDirectory()
	if dir == "" {
		dir = s.workspace
	}
	env := shellEnvironment(job, spec, as)
	path, argv, err := shellCommand(spec.GetCommand(), dir, env)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	sh := &shell{outputs: map[string]*os.File{}}
	theirs, err := sh.openFiles(spec, as)
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	if err != nil {
		sh.close()
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	attr := &os.ProcAttr{Dir: dir, Env: env, Files: theirs[:3], Sys: &syscall.SysProcAttr{Setsid: true, Setctty: sh.terminal != nil}}
	if as.uid != uint32(os.Geteuid()) {
		attr.Sys.Credential = &syscall.Credential{Uid: as.uid, Gid: as.gid, Groups: as.groups}
	}
	if sh.process, err = s.tree.startProcess(path, argv, attr); err != nil {
		sh.close()
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("start %s: %w", argv[0], err))
	}
	return sh, nil
}

// shellEnvironment is the job's, but for what is the runner's alone.
func shellEnvironment(job *nimbusv1.StartRequest, spec *nimbusv1.ShellSpec, as account) []string {
	env := environment(job.GetEnv(), as)
	env = slices.DeleteFunc(env, func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.Contains(runnerSecrets, key) || key == "TERM"
	})
	if spec.GetTerminal() != nil {
		term := spec.GetTerm()
		if term == "" || strings.ContainsRune(term, 0) {
			term = "xterm-256color"
		}
		env = append(env, "TERM="+term)
	}
	return env
}

// shellCommand is what to run; without a command, the first shell that is there.
func shellCommand(command []string, dir string, env []string) (path string, argv []string, err error) {
	if slices.ContainsFunc(slices.Concat(command, env), func(s string) bool { return strings.ContainsRune(s, 0) }) {
		return "", nil, errors.New("an argument or a variable holds a NUL character, which no process can be given")
	}
	if len(command) > 0 {
		path, err := lookPath(command[0], dir, env)
		return path, command, err
	}
	for _, path := range shellPaths {
		if executable(path, path) == nil {
			return path, []string{path}, nil
		}
	}
	return "", nil, fmt.Errorf("the image has no shell: %w", fs.ErrNotExist)
}

// openFiles makes what the process has for its input and outputs, which the
// caller closes, and keeps the other ends.
func (sh *shell) openFiles(spec *nimbusv1.ShellSpec, as account) (theirs []*os.File, err error) {
	if size := spec.GetTerminal(); size != nil {
		ours, other, err := openTerminal(size, as)
		if err != nil {
			return nil, err
		}
		sh.terminal, sh.input, sh.outputs["stdout"] = ours, ours, ours
		return []*os.File{other, other, other}, nil
	}
	in, input, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make input pipe: %w", err)
	}
	theirs, sh.input = []*os.File{in}, input
	for _, stream := range []string{"stdout", "stderr"} {
		output, out, err := os.Pipe()
		if err != nil {
			return theirs, fmt.Errorf("make output pipe: %w", err)
		}
		theirs, sh.outputs[stream] = append(theirs, out), output
	}
	return theirs, nil
}

func (sh *shell) close() {
	if sh.input != nil {
		sh.input.Close()
	}
	for _, f := range sh.outputs {
		f.Close()
	}
}

// run passes input and output on until the process has ended, or the caller is
// gone: then the process is too.
func (sh *shell) run(ctx context.Context, t tree) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the stream, which ends when this handler has returned
		defer cancel()
		sh.takeInput()
	}()
	var outputs sync.WaitGroup
	for stream, f := range sh.outputs {
		outputs.Go(func() { sh.giveOutput(stream, f) })
	}
	drained := make(chan struct{})
	go func() { outputs.Wait(); close(drained) }()
	ended := make(chan *nimbusv1.Exited, 1)
	go func() {
		state, err := sh.process.Wait()
		t.forget(sh.process.Pid)
		ended <- exitOf(state, err)
	}()
	var exit *nimbusv1.Exited
	select {
	case exit = <-ended:
		select { // what it left running may hold its output open
		case <-drained:
		case <-time.After(lingerTimeout):
		case <-ctx.Done():
		}
	case <-ctx.Done():
		sh.hangUp(ended)
	}
	sh.close()
	<-drained
	if exit == nil {
		return connect.NewError(connect.CodeCanceled, errors.New("the caller is gone"))
	}
	return sh.send(&nimbusv1.ShellResponse{Message: &nimbusv1.ShellResponse_Exited{Exited: &nimbusv1.ShellExit{Code: exit.Code, Signal: exit.GetSignal()}}})
}

// hangUp ends the process of a caller that is gone. What it put into the
// background with care goes on until the sandbox ends.
func (sh *shell) hangUp(ended <-chan *nimbusv1.Exited) {
	_ = unix.Kill(-sh.process.Pid, unix.SIGHUP) // gone already is fine
	if sh.terminal != nil {
		sh.close() // hangs up for what has the terminal in the foreground
	}
	select {
	case <-ended:
	case <-time.After(hangupGrace):
		_ = unix.Kill(-sh.process.Pid, unix.SIGKILL)
		<-ended
	}
}

// takeInput passes on what the caller sends. It returns when the caller is gone.
func (sh *shell) takeInput() {
	for {
		message, err := sh.stream.Receive()
		if err != nil {
			return
		}
		switch f := message.GetFrame().GetFrame().(type) {
		case *nimbusv1.ShellFrame_Input:
			_, _ = sh.input.Write(f.Input) // nobody reads it any more: it goes nowhere
		case *nimbusv1.ShellFrame_InputEnd:
			if sh.terminal == nil {
				sh.input.Close()
			} else {
				_, _ = sh.input.Write([]byte{endOfInput})
			}
		case *nimbusv1.ShellFrame_Size:
			if sh.terminal != nil {
				_ = resize(sh.terminal, f.Size) // one that can't be stays as it was
			}
		case *nimbusv1.ShellFrame_Signal:
			switch sig := unix.SignalNum(f.Signal); sig {
			case unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT:
				_ = unix.Kill(-sh.process.Pid, sig)
			}
		}
	}
}

// giveOutput sends what comes of one file until its end. A caller that does not
// take it makes the process wait.
func (sh *shell) giveOutput(stream string, f *os.File) {
	buf := make([]byte, outputChunk)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			output := &nimbusv1.ShellOutput{Stream: stream, Data: buf[:n]}
			if sh.send(&nimbusv1.ShellResponse{Message: &nimbusv1.ShellResponse_Output{Output: output}}) != nil {
				_, _ = io.Copy(io.Discard, f) // until it is closed
				return
			}
		}
		if err != nil { // a terminal that nobody has open says EIO
			return
		}
	}
}

func (sh *shell) send(message *nimbusv1.ShellResponse) error {
	sh.sending.Lock()
	defer sh.sending.Unlock()
	return sh.stream.Send(message)
}
