package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// S3Server is a real server of S3 of one test, which the test may stop and
// start. Its keys are for this machine alone.
type S3Server struct {
	URL                  string
	AccessKey, SecretKey string
	Bucket               string // is there, empty
	Dir                  string // where it keeps the bucket's objects, as files

	t       testing.TB
	program string
	address string
	dir     string
	cmd     *exec.Cmd
	ended   chan struct{}
}

// s3Tries is how often a port is looked for: another process may take it between
// that and the server's start.
const s3Tries = 5

// S3 starts a fresh versitygw, which requires "s3". It listens on a loopback port
// of its own and ends with the test.
func S3(t testing.TB) *S3Server {
	t.Helper()
	Require(t, "s3")
	program, err := versitygw()
	if err != nil {
		t.Fatal(err)
	}
	s := &S3Server{AccessKey: "test", SecretKey: "testsecret", Bucket: "nimbus", t: t, program: program, dir: t.TempDir()}
	s.Dir = filepath.Join(s.dir, "objects", s.Bucket)
	// The one must not begin with the other's name.
	if err := errors.Join(os.MkdirAll(s.Dir, 0o700), os.Mkdir(filepath.Join(s.dir, "about"), 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	for try := 1; ; try++ {
		s.address = FreeAddress(t)
		s.URL = "http://" + s.address
		err := s.start()
		if err == nil {
			return s
		}
		if try == s3Tries {
			t.Fatal(err)
		}
	}
}

// Start starts it, after Stop, at the same address and with what it held.
func (s *S3Server) Start() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *S3Server) start() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start S3: %w", err)
	}
	defer log.Close()
	s.cmd = exec.Command(s.program, "--port", s.address, "--quiet", "posix", "--sidecar", filepath.Join(s.dir, "about"), filepath.Dir(s.Dir))
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, log, log
	if err := StartBound(s.cmd); err != nil {
		s.cmd = nil
		return fmt.Errorf("start S3: %w", err)
	}
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan<- struct{}) {
		_ = cmd.Wait() // it is killed
		close(ended)
	}(s.cmd, s.ended)
	if err := awaitURL(s.URL, s.ended); err != nil {
		s.Stop()
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("start S3: %w\n%s", err, said[max(0, len(said)-4<<10):])
	}
	return nil
}

// Stop kills it. What it holds it still has after Start.
func (s *S3Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.ended
	s.cmd = nil
}

// versitygw finds the server.
func versitygw() (string, error) { return Tool("versitygw") }

// Tool finds a program of others in PATH or where `make test` builds it.
func Tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return cached(filepath.Join("tools", name))
}

// cached finds a file in the repository's .cache, where make puts it.
func cached(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", name, err)
	}
	for ; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/nimbus-ci/nimbus\n") {
			break
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no %s: this is not the repository", name)
		}
	}
	path := filepath.Join(dir, ".cache", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("make .cache/%s: %w", name, err)
	}
	return path, nil
}
