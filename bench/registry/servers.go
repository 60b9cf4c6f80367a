package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/server"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// Each server is this program, told by a variable which one it is and where.
const (
	kindVariable = "NIMBUS_BENCH_REGISTRY_KIND"
	dirVariable  = "NIMBUS_BENCH_REGISTRY_DIR"
)

// serve is a server until it is killed. It prints its address, and a token.
func serve(kind, dir string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if kind == "nimbus" {
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		s, err := server.Open(context.Background(), server.Config{Data: dir, Listener: l, Log: log})
		if err != nil {
			return err
		}
		return s.Run(context.Background(), func() { fmt.Println(l.Addr(), s.AdminToken()) })
	}
	fmt.Println(l.Addr(), "none")
	return http.Serve(l, floor{dir})
}

// floor does what a registry has to, and nothing else: a PUT is hashed, compared,
// synced and shown; a GET is a file.
type floor struct{ dir string }

// ServeHTTP implements http.Handler.
func (f floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := filepath.Join(f.dir, filepath.Base(r.URL.Path))
	if r.Method == http.MethodGet {
		http.ServeFile(w, r, path)
		return
	}
	if err := f.put(r, path); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func (f floor) put(r *http.Request, path string) error {
	temp, err := os.CreateTemp(f.dir, ".in-")
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(temp, sum)}, r.Body, make([]byte, 128<<10))
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil && "sha256:"+hex.EncodeToString(sum.Sum(nil)) != r.URL.Query().Get("digest") {
		err = errors.New("it has another digest")
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	return err
}

// process is a server that runs.
type running struct {
	cmd   *exec.Cmd
	url   string
	token string
}

func start(kind, dir string) (*running, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), kindVariable+"="+kind, dirVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = testenv.StartBound(cmd)
	}
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the server %s does not start: %w", kind, err)
	}
	address, token, _ := strings.Cut(strings.TrimSpace(line), " ")
	return &running{cmd, "http://" + address, token}, nil
}

func (r *running) stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // it was killed
}
