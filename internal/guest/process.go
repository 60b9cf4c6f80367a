package guest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// outputChunk is the largest piece of output in one event.
const outputChunk = 32 << 10

// lingerTimeout is how long processes that outlive the job's first one may go
// on writing before they are killed.
const lingerTimeout = 2 * time.Second

// drainTimeout bounds the reading of what killed processes left in the pipes;
// only something that escaped the kill can hold them open longer.
const drainTimeout = 5 * time.Second

// pipeBound is the most that a pipe holds, of a user without privileges.
const pipeBound = 1 << 20

// Exit codes of a command that could not be run, as shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// account is a user of the image.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32
	home     string
}

// defaultPath is where commands are looked up when the job's environment does
// not say.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process is the job's process tree.
type process struct {
	cmd    *os.Process
	events *events
	tree   tree
	pipes  []*outlet // stdout and stderr
	output sync.WaitGroup
	runner *runner // nil unless it is GitHub's
}

// pid is that of the first process, 0 for a job that could not be run.
func (p *process) pid() int64 {
	if p == nil {
		return 0
	}
	return int64(p.cmd.Pid)
}

// environment is what the job gets: its own over sane defaults.
func environment(own map[string]string, as account) []string {
	env := map[string]string{
		"PATH": defaultPath, "HOME": as.home, "USER": as.name, "LOGNAME": as.name,
		"LANG": "C.UTF-8", "NIMBUS": "1",
	}
	for k, v := range own {
		env[k] = v
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// start starts the job. A command that can't be run is no error: the job says
// so itself and ends with the code that a shell would give it.
func start(r *nimbusv1.StartRequest, dir string, as account, t tree, e *events) (*process, error) {
	env := environment(r.GetEnv(), as)
	if slices.ContainsFunc(slices.Concat(r.GetCommand(), env), func(s string) bool { return strings.ContainsRune(s, 0) }) {
		refuse(e, exitNotExecutable, errors.New("an argument or a variable of the command holds a NUL character, which no process can be given"))
		return nil, nil
	}
	path, err := lookPath(r.GetCommand()[0], dir, env)
	if err != nil {
		code := int32(exitNotFound)
		if errors.Is(err, fs.ErrPermission) {
			code = exitNotExecutable
		}
		refuse(e, code, err)
		return nil, nil
	}
	p := &process{events: e, tree: t}
	var writers []*os.File
	defer func() {
		for _, w := range writers {
			w.Close()
		}
	}()
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			p.closePipes()
			return nil, fmt.Errorf("make output pipe: %w", err)
		}
		p.pipes, writers = append(p.pipes, &outlet{file: r}), append(writers, w)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		p.closePipes()
		return nil, fmt.Errorf("open empty input: %w", err)
	}
	defer null.Close()
	if folders := r.GetRunnerDiagnostics(); len(folders) > 0 {
		if p.runner, err = followRunner(folders, dir, e); err != nil {
			p.closePipes()
			return nil, err
		}
	}
	attr := &os.ProcAttr{
		Dir: dir, Env: env, Files: []*os.File{null, writers[0], writers[1]},
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	if as.uid != uint32(os.Geteuid()) {
		attr.Sys.Credential = &syscall.Credential{Uid: as.uid, Gid: as.gid, Groups: as.groups}
	}
	p.cmd, err = t.startProcess(path, r.GetCommand(), attr)
	if err != nil {
		p.closePipes()
		if p.runner != nil {
			p.runner.end()
		}
		if notRunnable(err) {
			refuse(e, exitNotExecutable, err)
			return nil, nil
		}
		return nil, fmt.Errorf("start %s: %w", r.GetCommand()[0], err)
	}
	for i, stream := range []string{"stdout", "stderr"} {
		p.output.Go(func() { p.read(p.pipes[i], stream) })
	}
	go p.wait()
	return p, nil
}

// written is how much the job has written by now.
func (p *process) written() (n []int64) {
	for _, o := range p.pipes {
		n = append(n, o.written())
	}
	return n
}

// has tells whether so much is in the events, or nothing more will be.
func (p *process) has(written []int64) bool {
	for i, n := range written {
		if !p.pipes[i].has(n) {
			return false
		}
	}
	return true
}

// refuse ends the job as a shell would when it can't run a command.
func refuse(e *events, code int32, why error) {
	e.output("stderr", []byte("nimbus: "+why.Error()+"\n"))
	e.exited(&nimbusv1.Exited{Code: &code})
}

// notRunnable is whether exec itself refused the command: no interpreter, no
// format it knows, not for this user, or arguments that are too long.
func notRunnable(err error) bool {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.ENOEXEC, unix.EACCES, unix.ENOTDIR, unix.E2BIG} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func (p *process) closePipes() {
	for _, o := range p.pipes {
		o.close()
	}
}

// read turns one pipe into events until it ends or its deadline passes.
func (p *process) read(from *outlet, stream string) {
	err := p.copyOutput(from, stream, from.pass)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	// The time may have gone by waiting for the agent: what the job wrote still
	// lies in the pipe. A pipe's worth bounds what an escaped process adds.
	if from.file.SetReadDeadline(time.Now().Add(lingerTimeout)) == nil {
		_ = p.copyOutput(io.LimitReader(from, pipeBound), stream, from.pass) // its end, or the deadline again
	}
}

func (p *process) copyOutput(r io.Reader, stream string, passed func(int)) error {
	buf := make([]byte, outputChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			p.write(stream, buf[:n], func() { passed(n) })
		}
		if err != nil {
			return err
		}
	}
}

func (p *process) write(stream string, data []byte, passed func()) {
	if p.runner != nil && stream == "stdout" {
		p.runner.output(data)
		passed()
		return
	}
	p.events.outputThen(stream, bytes.Clone(data), passed) // a short line must not hold a whole buffer
}

// wait sees the job to its end: the first process, then what it left behind,
// then the rest of the output, then the exit.
func (p *process) wait() {
	state, err := p.cmd.Wait()
	p.tree.forget(p.cmd.Pid)
	drained := make(chan struct{})
	go func() { p.output.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(lingerTimeout):
	}
	p.tree.kill(unix.SIGKILL)
	for _, o := range p.pipes {
		_ = o.file.SetReadDeadline(time.Now().Add(drainTimeout)) // bounds reads, not the wait for the agent
	}
	<-drained
	p.closePipes()
	exit := p.tree.exit(state, err)
	if p.runner != nil {
		exit.Runner = p.runner.end() // and with it what its pages had left
	}
	p.events.exited(exit)
}

// exitOf says how the first process ended.
func exitOf(state *os.ProcessState, err error) *nimbusv1.Exited {
	x := &nimbusv1.Exited{}
	if err != nil {
		x.Signal = "UNKNOWN"
		return x
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		x.Signal = unix.SignalName(status.Signal())
	} else {
		code := int32(state.ExitCode())
		x.Code = &code
	}
	x.CpuTime = durationpb.New(state.UserTime() + state.SystemTime())
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		x.MaxRssBytes = usage.Maxrss << 10
	}
	return x
}

// lookPath finds a command as a shell in the job's environment would.
func lookPath(name, dir string, env []string) (string, error) {
	if name == "" {
		return "", errors.New("the command is empty")
	}
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		return path, executable(path, name)
	}
	search := defaultPath
	for _, kv := range env {
		if rest, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = rest
		}
	}
	denied := false
	for _, folder := range filepath.SplitList(search) {
		path := filepath.Join(folder, name)
		err := executable(path, name)
		if err == nil {
			return path, nil
		}
		denied = denied || errors.Is(err, fs.ErrPermission)
	}
	if denied {
		return "", fmt.Errorf("%s: %w", name, fs.ErrPermission)
	}
	return "", fmt.Errorf("%s: command not found", name)
}

func executable(path, name string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: no such file", name)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case info.IsDir():
		return fmt.Errorf("%s: is a directory: %w", name, fs.ErrPermission)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: %w", name, fs.ErrPermission)
	}
	return nil
}

// lookAccount finds a user in the image's files; "" is whoever the guest is.
func lookAccount(name string) (account, error) {
	if name == "" {
		home := os.Getenv("HOME")
		if home == "" || home == "/" { // what a kernel gives the first process
			home = "/root"
		}
		return account{name: "root", uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), home: home}, nil
	}
	var a account
	err := scanFile("/etc/passwd", func(f []string) {
		if len(f) >= 6 && f[0] == name && a.name == "" {
			uid, errU := strconv.ParseUint(f[2], 10, 32)
			gid, errG := strconv.ParseUint(f[3], 10, 32)
			if errU == nil && errG == nil {
				a = account{name: name, uid: uint32(uid), gid: uint32(gid), home: f[5]}
			}
		}
	})
	if err != nil {
		return a, err
	}
	if a.name == "" {
		return a, fmt.Errorf("the image has no user %q", name)
	}
	return a, scanFile("/etc/group", func(f []string) {
		if len(f) >= 4 && slices.Contains(strings.Split(f[3], ","), name) {
			if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				a.groups = append(a.groups, uint32(gid))
			}
		}
	})
}

// scanFile calls f with the fields of each line of a colon-separated file.
func scanFile(path string, f func(fields []string)) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("look up user: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f(strings.Split(lines.Text(), ":"))
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("look up user: %w", err)
	}
	return nil
}
