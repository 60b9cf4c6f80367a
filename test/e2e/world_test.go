package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// bin is the folder of the built programs.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nimbus-e2e-bin-")
	if err != nil {
		panic(err)
	}
	bin = dir
	// As make builds them: an image that has the same program in it is kept.
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/...")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build the programs: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// machine is a data directory and an address, over any number of starts of
// `nimbus up`.
type machine struct {
	data, addr string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	testenv.Require(t, "root")
	return &machine{data: dataFolder(t), addr: testenv.FreeAddress(t)}
}

// dataFolder is a folder that goes once nobody is left who writes to it: a sandbox that
// an agent leaves behind is taken down by its shim, up to a lease later.
func dataFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		var left []string
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if left = processes(t, dir+"/"); len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("what ran in the data folder is still there:\n%s", strings.Join(left, "\n"))
				return
			}
		}
	})
	return dir
}

func (m *machine) env(more ...string) []string {
	return append(append(os.Environ(), "NIMBUS_DATA="+m.data, "NIMBUS_SERVER=http://"+m.addr, "NO_COLOR=1"), more...)
}

// program is one that runs beside the test.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout watched
	stderr watched
	ended  chan struct{}
	err    error // valid once ended is closed
}

// start starts nimbus with args. If it is still there at the end of the test, it
// ends as an operator would end it: killed, it would leave machines to their shims,
// which still take them down while the test's folder is removed.
func (m *machine) start(t *testing.T, dir string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(filepath.Join(bin, "nimbus"), args...), ended: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = dir, m.env()
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		select {
		case <-p.ended:
		default:
			p.stop()
		}
		if t.Failed() {
			t.Logf("nimbus %s\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), p.stdout.String(), p.stderr.String())
		}
	})
	return p
}

// up starts `nimbus up` and waits until it answers.
func (m *machine) up(t *testing.T, args ...string) *program {
	t.Helper()
	p := m.start(t, "", append([]string{"up", "--executors", "local", "--listen", m.addr, "--log-level", "debug"}, args...)...)
	m.awaitReady(t, p)
	return p
}

func (m *machine) awaitReady(t *testing.T, p *program) {
	t.Helper()
	await(t, time.Minute, "the server answers", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("it ended: %v", p.err)
		default:
		}
		resp, err := http.Get("http://" + m.addr + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		// The command line's token is there a moment later than the first answer.
		_, err = os.Stat(filepath.Join(m.data, "admin.token"))
		return resp.StatusCode == http.StatusOK && err == nil
	})
}

// signal sends a signal and returns the exit code once the program has ended.
func (p *program) signal(s os.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	return p.wait(time.Minute)
}

// stop ends the program, by force if it must be.
func (p *program) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by now
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		p.t.Errorf("%v does not end", p.cmd.Args)
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

func (p *program) wait(timeout time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
		return exitCode(p.t, p.err)
	case <-time.After(timeout):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // to have it say what it waits for
		select {
		case <-p.ended:
		case <-time.After(5 * time.Second):
		}
		p.t.Fatalf("%v does not end", p.cmd.Args)
		return -1
	}
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	case errors.As(err, &exit):
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	}
	t.Fatal(err)
	return -1
}

// nimbus runs a command to its end, which may be that of a job in an emulated machine.
func (m *machine) nimbus(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "nimbus"), args...)
	cmd.Dir, cmd.Env = dir, m.env()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	code = exitCode(t, cmd.Run())
	return out.String(), errs.String(), code
}

// must runs a command that has to succeed and returns its stdout.
func (m *machine) must(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := m.nimbus(t, t.TempDir(), args...)
	if code != 0 {
		t.Fatalf("nimbus %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// watched is a buffer that is read while it is written.
type watched struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// await polls until ok, or fails the test.
func await(t *testing.T, timeout time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", timeout, what)
		}
	}
}

// checkGone tells that nothing of any sandbox of an agent is left: folders,
// processes, cgroups.
func checkGone(t *testing.T, data string) {
	t.Helper()
	await(t, time.Minute, "the sandboxes' folders are gone", func() bool {
		entries, err := os.ReadDir(filepath.Join(data, "agent", "attempts"))
		return err == nil && len(entries) == 0
	})
	var left []string
	await(t, time.Minute, "the sandboxes' processes are gone", func() bool {
		left = processes(t, filepath.Join(data, "agent")+"/")
		return len(left) == 0
	})
}

// processes are those whose command line, directory or environment leads into
// dir.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range pids {
		args, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		if strings.Contains(string(args), dir) || strings.HasPrefix(cwd+"/", dir) {
			found = append(found, filepath.Base(p)+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return found
}
