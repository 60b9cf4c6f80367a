package cache_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	api "github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// nimbusProgram builds the real program, once for all tests.
func nimbusProgram(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nimbus")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./cmd/nimbus")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build nimbus: %v\n%s", err, out)
	}
	return path
}

// process is a server in a process of its own, over any number of starts.
type process struct {
	t       testing.TB
	url     string
	program string
	args    []string
	env     []string
	log     *os.File

	mu  sync.Mutex
	cmd *exec.Cmd
}

// serve starts a server with its data in a folder.
func serve(t testing.TB, program, data string, env []string, args ...string) *process {
	t.Helper()
	address := testenv.FreeAddress(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []string{"submit", "api", "webhook", "stranger", "host"} {
		args = append(args, "--limit-"+of+"=off")
	}
	p := &process{t: t, url: "http://" + address, program: program, args: append(args, "--listen", address, "--log-level", "warn"),
		env: append(append(os.Environ(), "NIMBUS_DATA="+data), env...), log: log}
	p.start()
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("%s said:\n%s", p.url, said)
		}
		log.Close()
	})
	return p
}

// start starts it, and waits until it answers.
func (p *process) start() {
	p.t.Helper()
	cmd := exec.Command(p.program, p.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, p.log, p.log
	if err := testenv.StartBound(cmd); err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.cmd = cmd
	p.mu.Unlock()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if answer, err := http.Get(p.url + "/readyz"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(p.log.Name())
			p.t.Fatalf("%s does not answer:\n%s", p.url, said)
		}
	}
}

// end ends it, if it runs, and waits for that.
func (p *process) end(signal os.Signal) {
	p.mu.Lock()
	cmd := p.cmd
	p.cmd = nil
	p.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Signal(signal)
		_ = cmd.Wait()
	}
}

// jobToken is that of a job of the org's own, which runs until the test ends.
func jobToken(t testing.TB, p *process, data string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	admin, err := os.ReadFile(filepath.Join(data, "admin.token"))
	must(err)
	c, err := api.New(api.Config{Server: p.url, Token: strings.TrimSpace(string(admin))})
	must(err)
	join, _, err := c.CreateJoinToken(t.Context(), 0)
	must(err)
	host, err := simhost.Join(t.Context(), simhost.Config{Server: p.url, JoinToken: join, Name: "host", Slots: 1})
	must(err)
	t.Cleanup(host.Close)
	_, err = c.Submit(t.Context(), api.Submission{Spec: nimbus.Spec{Command: []string{"true"}}})
	must(err)
	for {
		offers, err := host.Poll(t.Context(), time.Second)
		must(err)
		if len(offers) == 0 {
			continue
		}
		host.Hold(offers[0].GetLease())
		a, err := host.Accept(t.Context(), offers[0].GetLease())
		must(err)
		renewing, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		renewed := make(chan struct{})
		go func() {
			defer close(renewed)
			for renewing.Err() == nil {
				_, _ = host.Heartbeat(renewing) // the server may be down for a moment
				select {
				case <-renewing.Done():
				case <-time.After(time.Second):
				}
			}
		}()
		t.Cleanup(func() { stop(); <-renewed })
		if a.GetCacheToken() == "" {
			t.Fatal("a job has no token for the cache")
		}
		return a.GetCacheToken()
	}
}

// elsewhere is a signed URL at another replica.
func elsewhere(target, from, to string) string {
	rest, ok := strings.CutPrefix(target, from)
	if !ok {
		panic(fmt.Sprintf("%s is not of %s", target, from))
	}
	return to + rest
}
