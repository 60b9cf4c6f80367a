package testenv

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// RedisServer is a real Redis of one test, which the test may stop and start.
type RedisServer struct {
	URL string

	t   testing.TB
	dir string
	cmd *exec.Cmd
}

// Redis starts a fresh Redis that keeps nothing. It requires "redis", listens
// on a unix socket alone, and ends with the test.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	Require(t, "redis")
	// Not t.TempDir: the path of a unix socket has room for 107 bytes.
	dir, err := os.MkdirTemp("", "nimbus-redis-")
	if err != nil {
		t.Fatal(err)
	}
	r := &RedisServer{URL: "unix://" + filepath.Join(dir, "socket"), t: t, dir: dir}
	t.Cleanup(func() {
		r.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	r.Start()
	return r
}

// Start starts it, after Stop.
func (r *RedisServer) Start() {
	r.t.Helper()
	socket := filepath.Join(r.dir, "socket")
	r.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", r.dir)
	if err := StartBound(r.cmd); err != nil {
		r.t.Fatalf("start redis: %v", err)
	}
	for deadline := time.Now().Add(startTimeout); ; <-time.After(5 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			if err := conn.Close(); err != nil {
				r.t.Fatal(err)
			}
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("redis does not answer: %v", err)
		}
	}
}

// Stop kills it, which loses what it held.
func (r *RedisServer) Stop() {
	r.t.Helper()
	if r.cmd == nil {
		return
	}
	if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Error(err)
	}
	_ = r.cmd.Wait() // it was killed
	r.cmd = nil
	if err := os.Remove(filepath.Join(r.dir, "socket")); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Error(err)
	}
}
