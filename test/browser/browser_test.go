// Package browser_test follows a job in a real browser: the built program, the
// built pages, Debian's Chromium.
package browser_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// script is the job: a first line at once, then it waits for a file that the
// test makes once the browser has seen it, then many lines and exit code 3.
const script = `echo '::nimbus-step::Wait'
printf 'first line \033[32mgreen\033[0m\n'
while [ ! -e "$GO" ]; do sleep 0.1; done
echo '::nimbus-step::Count'
i=1; while [ $i -lt 2000 ]; do echo "line $i"; i=$((i+1)); done
echo 'to stderr' >&2; echo 'last line of 2000'
exit 3`

func TestFollowAJobToItsEnd(t *testing.T) {
	testenv.Require(t, "chromium", "node")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	nimbus := filepath.Join(root, "bin", "nimbus")
	if _, err := os.Stat(nimbus); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	env := start(ctx, t, nimbus)

	screenshots := filepath.Join(root, "test", "results", "browser")
	if err := os.MkdirAll(screenshots, 0o755); err != nil {
		t.Fatal(err)
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(ctx, "node", "test/browser/follow.mjs")
	node.Dir = root
	node.Env = append(os.Environ(), "LINK="+loginLink(ctx, t, nimbus, env), "SCREENSHOTS="+screenshots, "CHROMIUM="+chromium)
	var stderr bytes.Buffer
	node.Stderr = &stderr
	answers, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	says, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}

	signal := filepath.Join(t.TempDir(), "go")
	done := false
	for lines := bufio.NewScanner(says); lines.Scan(); {
		switch lines.Text() {
		case "list":
			run(ctx, t, nimbus, env, "run", "--executor", "local", "--no-files", "--detach", "--name", "Follow me",
				"--env", "GO="+signal, "--", "sh", "-c", script)
			fmt.Fprintln(answers, "Follow me")
		case "running":
			if err := os.WriteFile(signal, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(answers, "go")
		case "done":
			done = true
		default:
			t.Logf("browser: %s", lines.Text())
		}
	}
	if err := node.Wait(); err != nil || !done {
		t.Fatalf("the browser did not get through: %v\n%s", err, stderr.String())
	}
}

// start runs `nimbus up` on a free port until the test ends and returns the
// environment with which the command line finds it.
func start(ctx context.Context, t *testing.T, nimbus string) []string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	data, err := os.MkdirTemp("", "nbr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })

	up := exec.CommandContext(ctx, nimbus, "up", "--listen", addr, "--data", data)
	var output bytes.Buffer
	up.Stdout, up.Stderr = &output, &output
	up.Cancel = func() error { return up.Process.Signal(syscall.SIGTERM) }
	up.WaitDelay = 20 * time.Second
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := up.Process.Signal(syscall.SIGTERM); err == nil {
			_ = up.Wait()
		}
		if t.Failed() {
			t.Logf("nimbus up:\n%s", output.String())
		}
	})
	await(ctx, t, "http://"+addr+"/readyz")
	return append(os.Environ(), "NIMBUS_SERVER=http://"+addr, "NIMBUS_DATA="+data)
}

func await(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s never became ready", url)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func loginLink(ctx context.Context, t *testing.T, nimbus string, env []string) string {
	t.Helper()
	var answer struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(run(ctx, t, nimbus, env, "login", "--json"), &answer); err != nil {
		t.Fatal(err)
	}
	return answer.URL
}

func run(ctx context.Context, t *testing.T, nimbus string, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(ctx, nimbus, args...)
	cmd.Env = env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("nimbus %s: %v\n%s", args[0], err, stderr.String())
	}
	return out
}
