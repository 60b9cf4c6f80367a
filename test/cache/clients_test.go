package cache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// client is a program that saves and restores, as a user would start it.
type client interface {
	// save saves a file. What is logged is what its user sees.
	save(ctx context.Context, w *world, c cache.Caller, key, file string) (verdict, string)
	// restore writes the file of the key that it finds, which is "" for none.
	restore(w *world, c cache.Caller, file, key string, more ...string) (found, log string)
}

type verdict string

const (
	saved   verdict = "saved"
	taken   verdict = "taken"
	refused verdict = "refused"
)

// script is @actions/cache.
type script struct{ v1 bool }

func (s script) run(ctx context.Context, w *world, c cache.Caller, folder string, args ...string) (result json.RawMessage, log string) {
	w.t.Helper()
	drive, err := filepath.Abs("clients/drive.mjs")
	w.must(err)
	cmd := exec.CommandContext(ctx, "node", append([]string{drive}, args...)...)
	cmd.Dir = folder
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "RUNNER_TEMP=" + w.t.TempDir(), "GITHUB_WORKSPACE=" + folder, "GITHUB_REF=" + c.Write,
		"ACTIONS_RUNTIME_TOKEN=" + w.token(c), "ACTIONS_RESULTS_URL=" + w.url + "/", "ACTIONS_CACHE_URL=" + w.url + "/",
	}
	if s.v1 { // which it speaks to what is no GitHub
		cmd.Env = append(cmd.Env, "GITHUB_SERVER_URL=https://ghes.example")
	} else {
		cmd.Env = append(cmd.Env, "GITHUB_SERVER_URL=https://github.com", "ACTIONS_CACHE_SERVICE_V2=true")
	}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil, string(out)
	}
	if err != nil {
		w.t.Fatalf("@actions/cache: %v\n%s", err, out)
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var last struct {
		Result json.RawMessage `json:"result"`
	}
	w.must(json.Unmarshal(lines[len(lines)-1], &last))
	return last.Result, string(out)
}

func (s script) save(ctx context.Context, w *world, c cache.Caller, key, file string) (verdict, string) {
	w.t.Helper()
	folder := w.t.TempDir()
	w.must(os.Link(file, filepath.Join(folder, "content")))
	result, log := s.run(ctx, w, c, folder, "save", key, "content")
	switch {
	case string(result) != "-1":
		return saved, log
	case strings.Contains(log, "another job may be creating this cache") || strings.Contains(log, "Cache already exists"):
		return taken, log
	}
	return refused, log
}

func (s script) restore(w *world, c cache.Caller, file, key string, more ...string) (found, log string) {
	w.t.Helper()
	folder := w.t.TempDir()
	result, log := s.run(w.t.Context(), w, c, folder, append([]string{"restore", "content", key}, more...)...)
	var matched *string
	w.must(json.Unmarshal(result, &matched))
	if matched == nil {
		return "", log
	}
	w.must(os.Rename(filepath.Join(folder, "content"), file))
	return *matched, log
}

// goClient is go-actions-cache, which BuildKit has inside.
type goClient struct {
	program string
	v1      bool
}

func (g goClient) run(ctx context.Context, w *world, c cache.Caller, args ...string) (out, log string, code int) {
	w.t.Helper()
	cmd := exec.CommandContext(ctx, g.program, args...)
	cmd.Env = []string{"ACTIONS_RUNTIME_TOKEN=" + w.token(c), "ACTIONS_RESULTS_URL=" + w.url + "/", "ACTIONS_CACHE_URL=" + w.url + "/"}
	if !g.v1 {
		cmd.Env = append(cmd.Env, "ACTIONS_CACHE_SERVICE_V2=1")
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		w.must(err)
	}
	return strings.TrimSpace(string(raw)), stderr.String(), cmd.ProcessState.ExitCode()
}

// Exit codes of the program.
const (
	exitMiss  = 3
	exitTaken = 4
)

func (g goClient) save(ctx context.Context, w *world, c cache.Caller, key, file string) (verdict, string) {
	w.t.Helper()
	_, log, code := g.run(ctx, w, c, "save", key, file)
	switch code {
	case 0:
		return saved, log
	case exitTaken:
		return taken, log
	}
	return refused, log
}

func (g goClient) restore(w *world, c cache.Caller, file, key string, more ...string) (found, log string) {
	w.t.Helper()
	found, log, code := g.run(w.t.Context(), w, c, append([]string{"load", file, key}, more...)...)
	if code != 0 && code != exitMiss {
		w.t.Fatalf("load %s: exit code %d, %s", key, code, log)
	}
	return found, log
}

// buildGoClient builds the program, whose module is its own.
func buildGoClient(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "goclient")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "goclient", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the client in Go: %v\n%s", err, out)
	}
	return path
}

// clients are all of them. The ones in JavaScript need `npm ci` in clients/, which
// scripts/deps does.
func clients(t testing.TB) map[string]client {
	t.Helper()
	modules, err := filepath.Abs("clients/node_modules/@actions/cache")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Require(t, "node", "tar", "zstd", modules)
	program := buildGoClient(t)
	return map[string]client{"js-v2": script{}, "js-v1": script{v1: true}, "go-v2": goClient{program: program}, "go-v1": goClient{program, true}}
}
