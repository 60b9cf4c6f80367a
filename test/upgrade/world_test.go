package upgrade

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/client"
)

// patience is how long any one thing may take on a busy machine.
const patience = 90 * time.Second

// baseline is the commit that BASELINE names.
func baseline(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("BASELINE")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return line
		}
	}
	t.Fatal("BASELINE names no commit")
	return ""
}

// build makes the program of a source tree, with the programs that it carries.
func build(t *testing.T, source string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "nimbus")
	for _, args := range [][]string{
		{"make", "--no-print-directory", "programs"},
		{"go", "build", "-trimpath", "-o", bin, "./cmd/nimbus"},
	} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s in %s: %v\n%s", strings.Join(args, " "), source, err, out)
		}
	}
	return bin
}

// unpack is the source of a commit, from the history.
func unpack(t *testing.T, commit string) string {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(t.TempDir(), "source.tar")
	for _, args := range [][]string{
		{"git", "archive", "--output", archive, commit},
		{"tar", "-x", "-C", dir, "-f", archive},
	} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v (is the clone shallow? git fetch --unshallow)\n%s", strings.Join(args, " "), err, out)
		}
	}
	return dir
}

// program is a nimbus that runs beside the test.
type program struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // valid once ended is closed

	mu  sync.Mutex
	log bytes.Buffer
}

// Write keeps what it logs.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// start starts it, and ends it with the test.
func start(t *testing.T, name, bin string, env []string, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: name, cmd: exec.Command(bin, args...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = append(os.Environ(), env...), p, p
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
			p.mu.Lock()
			defer p.mu.Unlock()
			text := p.log.Bytes()
			t.Logf("%s:\n%s", name, text[max(0, len(text)-8<<10):])
		}
	})
	return p
}

// stop asks it to end, and waits for that.
func (p *program) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	select {
	case <-p.ended:
		if p.err != nil {
			p.t.Errorf("%s ended with %v", p.name, p.err)
		}
	case <-time.After(patience):
		p.t.Errorf("%s does not end", p.name)
		_ = p.cmd.Process.Kill() // the failure is told above
		<-p.ended
	}
}

// replica is one `nimbus server`.
type replica struct {
	*program
	addr, data string
}

// serve starts a replica and waits until it answers. All have one key and one
// administrator, who is made by the first.
func serve(t *testing.T, name, bin, database, shared, addr string) *replica {
	t.Helper()
	data := filepath.Join(shared, name)
	r := &replica{addr: addr, data: data, program: start(t, name, bin, []string{"NIMBUS_DATA=" + data, "NIMBUS_DATABASE=" + database},
		"server", "--listen", addr, "--master-key-file", filepath.Join(shared, "master.key"))}
	await(t, name+" is ready", func() bool {
		select {
		case <-r.ended:
			t.Fatalf("%s ended: %v", name, r.err)
		default:
		}
		return ready(addr)
	})
	return r
}

func ready(addr string) bool {
	answer, err := (&http.Client{Timeout: 3 * time.Second}).Get("http://" + addr + "/readyz")
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body) // the status is all that counts
	return answer.StatusCode == http.StatusOK
}

func connect(t *testing.T, addr, token string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Server: "http://" + addr, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// host starts an agent with the local executor. join is the token that it
// needs once, "" for a data directory that has joined.
func host(t *testing.T, name, bin, server, data, join string) *program {
	t.Helper()
	args := []string{"agent", "--server", server, "--executors", "local", "--cpus", fmt.Sprint(slots), "--memory", "4096", "--name", filepath.Base(data)}
	if join != "" {
		file := filepath.Join(t.TempDir(), "join.token")
		if err := os.WriteFile(file, []byte(join), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--join-token-file", file)
	}
	return start(t, name, bin, []string{"NIMBUS_DATA=" + data}, args...)
}

// await polls until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
