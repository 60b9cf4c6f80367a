package near_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/cache/near"
)

// lines are what is logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestWhoHangsUpIsNoFaultOfTheCache: a client that goes in the midst of an upload is
// not logged as a cache that can't be reached; a server that goes is.
func TestWhoHangsUpIsNoFaultOfTheCache(t *testing.T) {
	begun, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			panic(http.ErrAbortHandler)
		}
		begun <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
		gone <- struct{}{}
	}))
	t.Cleanup(server.Close)
	log := &lines{}
	d, err := near.Open(near.Config{Server: server.URL, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()

	conn, err := net.Dial("tcp", d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "PUT /cache/org/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nhalf"); err != nil {
		t.Fatal(err)
	}
	<-begun
	conn.Close()
	<-gone
	if status, _ := ask(t, http.MethodPost, "http://"+d.Addr()+"/cache/org/k", "h", nil); status != http.StatusNotFound {
		t.Errorf("of a server that goes: %d", status)
	}
	for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), "can't be reached"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a server that goes is not logged")
		}
	}
	stop() // all requests are over
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if text := log.String(); strings.Count(text, "can't be reached") != 1 {
		t.Errorf("it is logged:\n%s", text)
	}
}

// TestTheFolderIsEmptied while the host has it: what comes after that is kept.
func TestTheFolderIsEmptied(t *testing.T) {
	t.Parallel()
	o, dir := newSaving(t, map[int64]string{}), t.TempDir()
	d := keepingIn(t, o.URL, dir, 100*mib)
	if status := put(t, d, 1, contentOf(1), true); status != http.StatusCreated {
		t.Fatal(status)
	}
	restore(t, o.origin, d, true, 1)
	there, err := os.ReadDir(dir)
	if err != nil || len(there) == 0 {
		t.Fatal(there, err)
	}
	for _, e := range there {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if status := put(t, d, 2, contentOf(2), true); status != http.StatusCreated {
		t.Fatal(status)
	}
	restore(t, o.origin, d, true, 2)
}
