package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// floorLog is what the floor has of a log: the bytes that its readers are to get.
type floorLog struct {
	mu      sync.Mutex
	file    *os.File
	bytes   []byte
	changed chan struct{}
}

// floorServer takes bytes by POST and sends them to who asks for them.
type floorServer struct {
	dir  string
	mu   sync.Mutex
	logs map[string]*floorLog
}

// serveFloor is the process of the floor. It says where it listens.
func serveFloor(dir string) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println(l.Addr())
	srv := &http.Server{Handler: &floorServer{dir: dir, logs: map[string]*floorLog{}}, ReadHeaderTimeout: time.Minute}
	return srv.Serve(l)
}

func (s *floorServer) log(path string) (*floorLog, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[path]; l != nil {
		return l, nil
	}
	f, err := os.CreateTemp(s.dir, "floor-")
	if err != nil {
		return nil, fmt.Errorf("make a log: %w", err)
	}
	l := &floorLog{file: f, changed: make(chan struct{})}
	s.logs[path] = l
	return l, nil
}

// ServeHTTP implements http.Handler.
func (s *floorServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l, err := s.log(r.URL.Path)
	if err == nil && r.Method == http.MethodPost {
		err = l.take(r.Body)
	} else if err == nil {
		l.send(r.Context(), w)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (l *floorLog) take(body io.Reader) error {
	more, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read lines: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.file.Write(more)
	if err = errors.Join(err, l.file.Sync()); err != nil {
		return fmt.Errorf("keep lines: %w", err)
	}
	l.bytes = append(l.bytes, more...)
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// send sends all that there is, as soon as it is there, until the reader is gone.
func (l *floorLog) send(ctx context.Context, w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	if rc.Flush() != nil {
		return
	}
	for sent := 0; ; {
		l.mu.Lock()
		more, changed := l.bytes[sent:], l.changed
		l.mu.Unlock()
		if len(more) > 0 {
			if _, err := w.Write(more); err != nil || rc.Flush() != nil {
				return
			}
			sent += len(more)
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// floor is that process, as the bench uses it.
type floor struct {
	cmd     *exec.Cmd
	address string
	logs    int
}

func startFloor(ctx context.Context, dir string) (_ *floor, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	kept := filepath.Join(dir, "floor")
	if err := os.Mkdir(kept, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make a folder for the floor: %w", err)
	}
	f := &floor{cmd: exec.CommandContext(ctx, self, "floor", kept)}
	f.cmd.Stderr = os.Stderr
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	if err := testenv.StartBound(f.cmd); err != nil {
		return nil, nil, fmt.Errorf("start the floor: %w", err)
	}
	stop = func() {
		_ = f.cmd.Process.Kill() // it has nothing to finish
		_ = f.cmd.Wait()
	}
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("hear where the floor listens: %w", err)
	}
	f.address = strings.TrimSpace(first)
	return f, stop, nil
}

func (f *floor) pid() int { return f.cmd.Process.Pid }

// begin begins a log. Its lines are the bytes that the product sends, made here.
func (f *floor) begin(context.Context) (endpoint, appender, error) {
	f.logs++
	where := endpoint{address: f.address, path: fmt.Sprint("/", f.logs)}
	add := func(ctx context.Context, first, n int) error {
		var body bytes.Buffer
		for seq := first; seq < first+n; seq++ {
			data, err := json.Marshal(map[string]any{"seq": seq, "at": time.Now().UTC(), "stream": "stdout", "step": 0, "text": text(seq)})
			if err != nil {
				return fmt.Errorf("encode a line: %w", err)
			}
			fmt.Fprintf(&body, "id: att_00000000000000000000000000:%d\nevent: line\ndata: %s\n\n", seq, data)
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+where.address+where.path, &body)
		if err != nil {
			return fmt.Errorf("make a request: %w", err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return fmt.Errorf("append to the floor: %w", err)
		}
		if answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("append to the floor: %s", answer.Status)
		}
		return errors.Join(err, answer.Body.Close())
	}
	return where, add, nil
}
