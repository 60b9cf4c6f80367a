package testenv

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// ClickHouseServer is the real engine of ClickHouse, as a library has it, behind
// its HTTP interface (tools/chdb says what it can't do). The test may kill and
// start it. Its methods are safe for concurrent use.
type ClickHouseServer struct {
	URL     string // http://ADDRESS:PORT
	Address string

	program, library string
	dir              string
	config           string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// ClickHouse starts a fresh engine, which requires "clickhouse". It listens on a
// loopback port of its own and ends with the test.
func ClickHouse(t testing.TB) *ClickHouseServer {
	t.Helper()
	Require(t, "clickhouse")
	s, err := StartClickHouse()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// StartClickHouse starts an engine for a program that is no test. It ends with the
// process at the latest.
func StartClickHouse() (*ClickHouseServer, error) {
	program, library, err := chdb()
	if err != nil {
		return nil, err
	}
	s := &ClickHouseServer{program: program, library: library}
	if s.dir, err = os.MkdirTemp("", "nimbus-ch-"); err != nil {
		return nil, fmt.Errorf("start ClickHouse: %w", err)
	}
	for range s3Tries {
		if s.Address, err = freeAddress(); err != nil {
			break
		}
		s.URL = "http://" + s.Address
		if err = s.Start(); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, s.Close())
}

// Configure gives the next Start a configuration file, and that one of users.
func (s *ClickHouseServer) Configure(users string) error {
	s.config = filepath.Join(s.dir, "config.xml")
	file := filepath.Join(s.dir, "users.xml")
	err := errors.Join(
		os.WriteFile(file, []byte(users), 0o600),
		os.WriteFile(s.config, []byte("<clickhouse><users_config>"+file+"</users_config></clickhouse>"), 0o600),
	)
	if err != nil {
		return fmt.Errorf("configure ClickHouse: %w", err)
	}
	return nil
}

// Start starts it, after Kill, at the same address and with what it held.
func (s *ClickHouseServer) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start ClickHouse: %w", err)
	}
	defer log.Close()
	args := []string{"-lib", s.library, "-data", filepath.Join(s.dir, "data"), "-listen", s.Address}
	if s.config != "" {
		args = append(args, "-config", s.config)
	}
	cmd := exec.Command(s.program, args...) // with no input: the engine reads what there is
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	if err := StartBound(cmd); err != nil {
		return fmt.Errorf("start ClickHouse: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
	}()
	s.cmd, s.ended = cmd, ended
	if err := awaitURL(s.URL+"/ping", ended); err != nil {
		s.kill()
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("start ClickHouse: %w\n%s", err, said[max(0, len(said)-4<<10):])
	}
	return nil
}

// Kill ends it as a power cut of its process would. What it holds it still has
// after Start.
func (s *ClickHouseServer) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
}

func (s *ClickHouseServer) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.ended
	s.cmd = nil
}

// Pid is the server's process, 0 while there is none.
func (s *ClickHouseServer) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Close ends it and removes what it held.
func (s *ClickHouseServer) Close() error {
	s.Kill()
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove what ClickHouse held: %w", err)
	}
	return nil
}

// awaitURL returns once a server answers, with whatever, or has ended.
func awaitURL(url string, ended <-chan struct{}) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.After(startTimeout)
	for {
		answer, err := client.Get(url)
		if err == nil {
			answer.Body.Close()
			return nil
		}
		select {
		case <-ended:
			return errors.New("it ended")
		case <-deadline:
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// chdb finds the engine, and the program that serves it.
func chdb() (program, library string, err error) {
	if program, err = Tool("chdb"); err != nil {
		return "", "", err
	}
	if library, err = cached(filepath.Join("chdb", "libchdb.so")); err != nil {
		return "", "", err
	}
	return program, library, nil
}
