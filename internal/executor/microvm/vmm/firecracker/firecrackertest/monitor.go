package firecrackertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/api"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest/apidesc"
)

// patience is how long a test waits for something that happens at once.
const patience = 2 * time.Minute

// Monitor is a process without a jail, in a folder of its own, all of whose
// calls are checked and counted.
type Monitor struct {
	*api.Client

	Dir      string
	t        *testing.T
	target   Target
	coverage *Coverage
	http     *http.Client
	console  *console
	ended    chan struct{}
	cmd      *exec.Cmd
}

// console collects what a process writes.
type console struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf.Len() > 1<<20 {
		return len(p), nil // a guest that ticks for long
	}
	return c.buf.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// start starts a monitor in dir until the test ends. before is put before its
// command line.
func (s *suite) start(t *testing.T, dir string, before func(command []string) []string) *Monitor {
	t.Helper()
	command := []string{s.target.Firecracker, "--api-sock", "api.sock", "--id", "suite", "--level", "Error"}
	if before != nil {
		command = before(command)
	}
	m := &Monitor{Dir: dir, t: t, target: s.target, coverage: &s.coverage, console: &console{}, ended: make(chan struct{})}
	m.cmd = exec.Command(command[0], command[1:]...)
	m.cmd.Dir = dir
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	m.cmd.WaitDelay = time.Second
	if err := os.Remove(filepath.Join(dir, "api.sock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		_ = m.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		<-m.ended
		m.Close()
		if t.Failed() {
			t.Logf("the monitor's last words: %s", tail(m.console.String()))
		}
	})
	dial := func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", filepath.Join(dir, "api.sock"))
	}
	m.await("its socket", func() bool {
		conn, err := dial(t.Context())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	m.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }, MaxConnsPerHost: 1}}
	m.Client = api.New(m.throughChecks)
	return m
}

// throughChecks is a connection on which each call and answer is checked.
func (m *Monitor) throughChecks(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	server := &http.Server{Handler: http.HandlerFunc(m.relay), ReadHeaderTimeout: patience}
	go server.Serve(&oneConn{conn: theirs})
	return ours, nil
}

// oneConn is a listener that has one connection.
type oneConn struct {
	conn net.Conn
	once sync.Once
}

func (l *oneConn) Accept() (conn net.Conn, err error) {
	err = net.ErrClosed
	l.once.Do(func() { conn, err = l.conn, nil })
	return conn, err
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// relay does a call of the typed client: it must be one that the description has.
func (m *Monitor) relay(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		m.t.Error(err)
	}
	op, err := apidesc.Find(r.Method, r.URL.Path)
	if err != nil || op == nil {
		m.t.Errorf("the client calls %s %s, which is not described: %v", r.Method, r.URL.Path, err)
	} else if err := op.CheckRequest(body); err != nil {
		m.t.Errorf("the client calls %s %s with %s: %v", r.Method, r.URL.Path, body, err)
	}
	status, answer, err := m.send(r.Context(), r.Method, r.URL.Path, body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client sees a broken connection too
	}
	w.WriteHeader(status)
	w.Write(answer)
}

// send sends a call, checks its answer and counts it.
func (m *Monitor) send(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	var content io.Reader
	if len(body) > 0 {
		content = bytes.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://firecracker"+path, content)
	if err != nil {
		return 0, nil, err
	}
	answer, err := m.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, nil, err
	}
	op, err := apidesc.Find(method, path)
	if err != nil || op == nil {
		return answer.StatusCode, raw, err
	}
	if err := op.CheckAnswer(answer.StatusCode, raw); err != nil {
		m.t.Errorf("%s %s: %v", method, path, err)
	}
	m.coverage.add(op, answer.StatusCode, faultOf(answer.StatusCode, raw))
	return answer.StatusCode, raw, nil
}

func faultOf(status int, raw []byte) string {
	var fault struct {
		Message string `json:"fault_message"`
	}
	if status < http.StatusBadRequest || json.Unmarshal(raw, &fault) != nil {
		return ""
	}
	return fault.Message
}

// Refuses sends a call that must be refused with words that contain want.
func (m *Monitor) Refuses(method, path, body, want string) {
	m.t.Helper()
	status, raw, err := m.send(m.t.Context(), method, path, []byte(body))
	if err != nil {
		m.t.Errorf("%s %s %s: %v", method, path, body, err)
		return
	}
	if got := faultOf(status, raw); status < http.StatusBadRequest || !strings.Contains(got, want) {
		m.t.Errorf("%s %s %s: got %d %s, want a refusal with %q", method, path, body, status, raw, want)
	}
}

// Accepts sends a call that must work.
func (m *Monitor) Accepts(method, path, body string) {
	m.t.Helper()
	if status, raw, err := m.send(m.t.Context(), method, path, []byte(body)); err != nil || status >= http.StatusBadRequest {
		m.t.Errorf("%s %s %s: got %d %s, %v", method, path, body, status, raw, err)
	}
}

// must fails the test at once when a step that others need does not work.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// tail is the end of what a monitor said.
func tail(said string) string {
	const enough = 1 << 10
	return said[max(0, len(said)-enough):]
}

// await waits for something that happens by itself.
func (m *Monitor) await(what string, done func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s did not come; the monitor's last words: %s", what, tail(m.console.String()))
		}
		select {
		case <-m.ended:
			m.t.Fatalf("%s did not come: the monitor has ended, its last words: %s", what, tail(m.console.String()))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// kernel writes a trial guest's kernel.
func kernel(t *testing.T, dir string, kind firecracker.Trial) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, "kernel"), firecracker.TrialKernel(kind), 0o644))
}
