package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// typist is a person at a terminal in which nimbus runs.
type typist struct {
	t     *testing.T
	tty   *os.File
	cmd   *exec.Cmd
	shown watched
	ended chan struct{}
	err   error // valid once ended is closed
}

// sit starts nimbus in a terminal.
func (m *machine) sit(t *testing.T, args ...string) *typist {
	t.Helper()
	p := &typist{t: t, cmd: exec.Command(filepath.Join(bin, "nimbus"), args...), ended: make(chan struct{})}
	p.cmd.Env = m.env("TERM=xterm")
	var err error
	if p.tty, err = pty.StartWithSize(p.cmd, &pty.Winsize{Rows: 33, Cols: 101}); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { _, _ = io.Copy(&p.shown, p.tty); close(read) }() // ends with EIO once nobody has the terminal
	go func() { p.err = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		p.tty.Close()
		<-read
		if t.Failed() {
			t.Logf("nimbus %s showed:\n%s", strings.Join(args, " "), p.shown.String())
		}
	})
	return p
}

func (p *typist) types(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.tty, text); err != nil {
		p.t.Fatal(err)
	}
}

func (p *typist) sees(words string) {
	p.t.Helper()
	await(p.t, time.Minute, "the terminal shows "+words, func() bool { return strings.Contains(p.shown.String(), words) })
}

func (p *typist) wait(timeout time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
		return exitCode(p.t, p.err)
	case <-time.After(timeout):
		p.t.Fatalf("%v does not end", p.cmd.Args)
		return -1
	}
}

// mode is how the terminal is set.
func (p *typist) mode() unix.Termios {
	p.t.Helper()
	mode, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *mode
}

// background submits a job that runs until a file is there, and returns its id once it does.
func (m *machine) background(t *testing.T, script string, flags ...string) string {
	t.Helper()
	id := strings.TrimSpace(m.must(t, append(append([]string{"run", "--detach", "--no-files"}, flags...), "--", "sh", "-c", script)...))
	await(t, time.Minute, "the job runs", func() bool { return m.job(t, id).Job.State == "running" })
	return id
}

// shells are those of a job, the newest first.
func (m *machine) shells(t *testing.T, job string) []struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	Reason   string `json:"reason"`
	Recorded int    `json:"recorded_lines"`
} {
	t.Helper()
	var v struct {
		Shells []struct {
			ID       string `json:"id"`
			State    string `json:"state"`
			Reason   string `json:"reason"`
			Recorded int    `json:"recorded_lines"`
		} `json:"shells"`
	}
	if err := json.Unmarshal([]byte(m.must(t, "shell", "recordings", "--json", job)), &v); err != nil {
		t.Fatal(err)
	}
	return v.Shells
}

// recording is what a shell's recording shows.
func (m *machine) recording(t *testing.T, job, shell string) (shown string) {
	t.Helper()
	for i, line := range strings.Split(strings.TrimSpace(m.must(t, "shell", "recordings", job, shell)), "\n") {
		var event []any
		if i == 0 {
			continue
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if event[1] == "o" {
			shown += event[2].(string)
		}
	}
	return shown
}

func TestShell(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.up(t)
	job := m.background(t, "echo ::add-mask::s3cr3t-word; echo made > made; sleep 1000", "--env", "OF=the job")

	t.Run("without a terminal", func(t *testing.T) {
		stdout, stderr, code := m.nimbus(t, t.TempDir(), "shell", job, "--", "sh", "-c", `cat made; echo "$OF"; echo err >&2; exit 7`)
		if code != 7 || stdout != "made\nthe job\n" || stderr != "err\n" {
			t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
		}
		if _, stderr, code := m.nimbus(t, t.TempDir(), "shell", job); code != 2 || !strings.Contains(stderr, "neither a terminal nor a command") {
			t.Errorf("without a command: %d %s", code, stderr)
		}
		if _, stderr, code := m.nimbus(t, t.TempDir(), "ssh", job, "--", "no-such-program"); code != 255 || !strings.Contains(stderr, "command not found") {
			t.Errorf("no such program: %d %s", code, stderr)
		}
	})
	t.Run("what is piped in comes out", func(t *testing.T) {
		cmd := exec.Command(filepath.Join(bin, "nimbus"), "shell", job, "--", "sha256sum")
		cmd.Env, cmd.Stdin = m.env(), io.LimitReader(zeros{}, 5<<20)
		out, err := cmd.Output()
		if err != nil || !strings.HasPrefix(string(out), "c036cbb7553a909f8b8877d4461924307f27ecb66cff928eeeafd569c3887e29") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("a flood, read slowly, loses nothing", func(t *testing.T) {
		cmd := exec.Command("sh", "-c", filepath.Join(bin, "nimbus")+" shell "+job+` -- sh -c 'yes 0123456789 | head -c 12000000' | (sleep 3; wc -c)`)
		cmd.Env = m.env()
		out, err := cmd.Output()
		if err != nil || strings.TrimSpace(string(out)) != "12000000" {
			t.Errorf("%v: %s bytes", err, out)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		p := m.sit(t, "shell", job)
		before := p.mode()
		p.sees("recorded")
		p.types("PS1='at-$((n=n+1)) '; stty size; echo $TERM-$OF; echo s3cr3t-''word\r")
		p.sees("33 101")
		p.sees("xterm-the job")
		if during := p.mode(); during.Lflag == before.Lflag {
			t.Error("the terminal is not raw")
		}
		if err := pty.Setsize(p.tty, &pty.Winsize{Rows: 44, Cols: 120}); err != nil {
			t.Fatal(err)
		}
		p.types("while ! stty size | grep '44 120'; do sleep 0.1; done\r")
		p.sees("44 120")
		p.types("sh -c 'echo be\"\"gun; exec sleep 1000'\r")
		p.sees("begun") // by who has the terminal: before that an interrupt is the shell's
		p.types("\x03")
		p.sees("at-3 ") // what is typed before is dropped with the line, or taken for the end of input
		p.types("echo still-''here; exit 5\r")
		p.sees("still-here")
		if code := p.wait(time.Minute); code != 5 {
			t.Errorf("exit code %d", code)
		}
		if after := p.mode(); after != before {
			t.Errorf("the terminal is left as %+v, it was %+v", after, before)
		}
		shown := m.recording(t, job, m.shells(t, job)[0].ID)
		if !strings.Contains(shown, "still-here") || !strings.Contains(shown, "***") || strings.Contains(shown, "s3cr3t-word") {
			t.Errorf("the recording shows %q", shown)
		}
	})
	t.Run("leaving", func(t *testing.T) {
		p := m.sit(t, "shell", job)
		before := p.mode()
		p.types("PS1=; trap '' HUP INT TERM; echo be''gun; sleep 1000\r")
		p.sees("begun")
		p.types("\r~.")
		if code := p.wait(time.Minute); code != 255 {
			t.Errorf("exit code %d", code)
		}
		if after := p.mode(); after != before {
			t.Errorf("the terminal is left as %+v, it was %+v", after, before)
		}
		await(t, time.Minute, "the shell is closed", func() bool {
			got := m.shells(t, job)[0]
			return got.State == "ended" && got.Reason == "closed"
		})
	})
	t.Run("the command line is killed", func(t *testing.T) {
		p := m.sit(t, "shell", job)
		p.types("PS1=; echo be''gun\r")
		p.sees("begun")
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		await(t, 60*time.Second, "the shell ends", func() bool {
			got := m.shells(t, job)[0]
			return got.State == "ended" && got.Reason == "user_gone"
		})
	})
	if got := m.job(t, job); got.Job.State != "running" {
		t.Fatalf("after all that the job is %+v", got.Job)
	}
	t.Run("the job ends", func(t *testing.T) {
		p := m.sit(t, "shell", job)
		before := p.mode()
		p.types("PS1=; echo be''gun\r")
		p.sees("begun")
		m.must(t, "cancel", job)
		if code := p.wait(time.Minute); code != 255 {
			t.Errorf("exit code %d", code)
		}
		p.sees("the job has ended")
		if after := p.mode(); after != before {
			t.Errorf("the terminal is left as %+v, it was %+v", after, before)
		}
		if _, stderr, code := m.nimbus(t, t.TempDir(), "shell", job, "--", "true"); code != 1 || !strings.Contains(stderr, "no sandbox") || !strings.Contains(stderr, "hint: ") {
			t.Errorf("afterwards: %d %s", code, stderr)
		}
	})
	m.must(t, "audit", "verify")
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestHeld: the sandbox of a job that fails stays, over a restart of everything,
// until it is given up.
func TestHeld(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	up := m.up(t)
	_, stderr, code := m.nimbus(t, t.TempDir(), "run", "--no-files", "--hold", "10m", "--", "sh", "-c", "echo left > behind; exit 3")
	if code != 3 || !strings.Contains(stderr, "nimbus shell job_") {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	look := func() {
		t.Helper()
		if got := m.must(t, "shell", "last", "--", "cat", "behind"); got != "left\n" {
			t.Errorf("its file has %q", got)
		}
		if got := m.must(t, "job", "last"); !strings.Contains(got, "its sandbox stays on") || !strings.Contains(got, "failure, exit code 3") {
			t.Errorf("the job is shown as %s", got)
		}
	}
	look()
	p := m.sit(t, "shell", "last")
	p.types("PS1=; echo be''gun\r")
	p.sees("begun")
	up.signal(syscall.SIGTERM)
	m.up(t)
	if code := p.wait(60 * time.Second); code != 255 {
		t.Errorf("over a restart the shell ended with %d", code)
	}
	p.sees("the shell ended: the host's agent")
	time.Sleep(30 * time.Second) // longer than the shim would wait for a lease
	look()
	m.must(t, "release", "last")
	await(t, time.Minute, "the sandbox is gone", func() bool { return !strings.Contains(m.must(t, "job", "last"), "its sandbox stays on") })
	checkGone(t, m.data)
	if got := m.job(t, "last"); got.Job.Result != "failure" || got.Job.ExitCode == nil || *got.Job.ExitCode != 3 || !got.Job.LogComplete {
		t.Errorf("the job: %+v", got.Job)
	}
}

// TestHeldFenced: the lease of a held sandbox is lost, as its host is silent. The
// shim ends the sandbox, the agent gives it up, and the job stays what it was.
func TestHeldFenced(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	up := m.up(t)
	if _, stderr, code := m.nimbus(t, t.TempDir(), "run", "--no-files", "--hold", "10m", "--", "sh", "-c", "exit 3"); code != 3 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	p := m.sit(t, "shell", "last")
	p.types("PS1=; echo be''gun\r")
	p.sees("begun")
	if err := up.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(32 * time.Second) // longer than a lease lasts
	if err := up.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(60 * time.Second); code != 255 {
		t.Errorf("the shell ended with %d", code)
	}
	checkGone(t, m.data)
	if got := m.job(t, "last"); got.Job.Result != "failure" || got.Job.ExitCode == nil || *got.Job.ExitCode != 3 || got.Job.AttemptCount != 1 {
		t.Errorf("the job: %+v", got.Job)
	}
	if _, stderr, code := m.nimbus(t, t.TempDir(), "shell", "last", "--", "true"); code != 1 || !strings.Contains(stderr, "no sandbox") {
		t.Errorf("afterwards: %d %s", code, stderr)
	}
}

// TestShellOverTwoReplicas: the host asks one, the user the other, and nothing
// but the database is between them. The user's is replaced meanwhile.
func TestShellOverTwoReplicas(t *testing.T) {
	t.Parallel()
	a := newMachine(t)
	b := &machine{data: dataFolder(t)}
	database, key := filepath.Join(t.TempDir(), "database.url"), filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(database, []byte(testenv.Postgres(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.addr = testenv.FreeAddress(t)
	serve := func(m *machine) *program {
		p := m.start(t, "", "server", "--database-file", database, "--listen", m.addr, "--master-key-file", key, "--drain", "100ms", "--log-level", "debug")
		await(t, 60*time.Second, "the replica answers", func() bool {
			resp, err := http.Get("http://" + m.addr + "/readyz")
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
		return p
	}
	first := serve(a)
	serve(b)
	token, err := os.ReadFile(filepath.Join(a.data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.data, "admin.token"), token, 0o600); err != nil {
		t.Fatal(err)
	}
	join := filepath.Join(t.TempDir(), "join")
	if err := os.WriteFile(join, []byte(a.must(t, "hosts", "token")), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start(t, "", "agent", "--executors", "local", "--join-token-file", join, "--log-level", "debug")
	job := a.background(t, "sleep 1000")

	p := a.sit(t, "shell", job)
	p.types("PS1=; echo be''gun\r")
	p.sees("begun")
	first.signal(syscall.SIGTERM)
	p.types("echo typed while it is a''way\r")
	serve(a)
	p.sees("typed while it is away")
	began := time.Now()
	for i := range 20 {
		p.types(fmt.Sprintf("echo %d-''times\r", i))
		p.sees(fmt.Sprintf("%d-times", i))
	}
	t.Logf("20 commands over two replicas without Redis: %v each", time.Since(began)/20)
	p.types("exit 6\r")
	if code := p.wait(time.Minute); code != 6 {
		t.Errorf("exit code %d", code)
	}
	a.must(t, "cancel", job)
	checkGone(t, b.data)
}
