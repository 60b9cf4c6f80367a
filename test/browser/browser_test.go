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
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// script is the job: a first line at once, then it waits, not quite idle, for a
// file that the test makes once the browser has seen it, then many lines and exit
// code 3.
const script = `echo '::nimbus-step::Wait'
printf 'first line \033[32mgreen\033[0m\n'
dd if=/dev/zero of=f bs=1M count=20 conv=fsync 2>/dev/null
while [ ! -e "$GO" ]; do sleep 0.1; j=0; while [ $j -lt 40000 ]; do j=$((j+1)); done; done
echo '::nimbus-step::Count'
i=1; while [ $i -lt 2000 ]; do echo "line $i"; i=$((i+1)); done
echo 'to stderr' >&2; echo 'last line of 2000'
exit 3`

// terminal is a job that writes as for a terminal, and GitHub's workflow commands.
const terminal = `printf '\033]0;a title\007\033]52;c;eA==\007colours: '
for c in 0 1 2 3 4 5 6 7; do printf '\033[3%dm 3%d \033[9%dm 9%d \033[0m\033[4%dm 4%d \033[10%dm 10%d \033[0m' $c $c $c $c $c $c $c $c; done; echo
printf '256: '; for c in 16 21 46 88 129 196 208 226 231 232 244 255; do printf '\033[38;5;%dm %d \033[0m\033[48;5;%dm %d \033[0m' $c $c $c $c; done; echo
printf 'true: \033[38:2::255:120:0mcolons\033[0m \033[38;2;90;90;90msemicolons\033[0m \033[48;2;40;0;90mground\033[0m\n'
printf 'styles: \033[1mbold\033[0m \033[2mdim\033[0m \033[3mitalic\033[0m \033[4munderline\033[0m \033[9mstrike\033[0m \033[4;9mboth\033[0m \033[7minverse\033[0m \033[31;7mred\033[0m\n'
printf '\033]8;;https://docs.example/build\033\\the build\033]8;;\033\\ and https://ci.example/run/1, \033]8;;javascript:alert(1)\007nowhere\033]8;;\007\n'
printf 'Fetching  10%%\rFetching  50%%\rFetching \033[32m100%%\033[0m\n'
printf 'tra\033[32mver\033[1ms\033[0med\n'
printf '::error file=src/a.go,line=3,title=Build::broken%%0Abadly\n::warning::50%%25 old\n::notice::seen\n::debug::looked\n[command]/usr/bin/make all\n'
printf '::group::\033[35mInstall\033[0m it\ninstalled\n::endgroup::\n'
printf 'bar 1\r::add-mask::s3cret-value\n'; echo 'the end of s3cret-value'`

func TestFollowAJobToItsEnd(t *testing.T) {
	b := newBrowser(t)
	env := b.start()
	signal := filepath.Join(t.TempDir(), "go")
	b.drive("follow.mjs", env, map[string]func(){
		"list": func() {
			b.run(env, "run", "--executor", "local", "--no-files", "--detach", "--name", "Follow me", "--env", "GO="+signal, "--", "sh", "-c", script)
		},
		"running": func() {
			if err := os.WriteFile(signal, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestReadALongLog of a million lines: of it, a browser has what is looked at.
func TestReadALongLog(t *testing.T) {
	b := newBrowser(t)
	env := b.start()
	out := b.run(env, "run", "--executor", "local", "--no-files", "--detach", "--name", "Long log", "--", "sh", "-c",
		"echo before all; echo '::nimbus-step::Everything'; echo '::group::Many <lines>'; seq -f 'line %.0f' 999997; echo ::endgroup::; echo the last line")
	id := strings.TrimSpace(string(out))
	b.run(env, "logs", "-f", id)
	b.drive("longlog.mjs", env, nil)
}

// TestSearchLogs of all jobs: what is found, by which filters, and where it leads.
func TestSearchLogs(t *testing.T) {
	b := newBrowser(t)
	env := b.start()
	run := func(script string, args ...string) {
		b.run(env, append(append([]string{"run", "--executor", "local", "--no-files"}, args...), "--", "sh", "-c", script)...)
	}
	run("seq 300; printf '\\033[31mNEEDLE <here>\\033[0m\\n'; seq 5; echo 'a needle <here>'; echo 'ERROR: it broke'", "--name", "Needles")
	run("echo 'needle <here>, too'", "--name", "With metadata", "--meta", "model=llama")
	run(terminal, "--name", "As a terminal")
	b.drive("logs.mjs", env, nil)
}

// TestRunningAgain: jobs of GitHub's are run again from their pages, by GitHub or
// by Nimbus, and what can't be says why.
func TestRunningAgain(t *testing.T) {
	b := newBrowser(t)
	double, err := githubtest.Start(githubtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(double.Close)
	key, secret := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "secret")
	for path, text := range map[string][]byte{key: double.PrivateKey(), secret: double.WebhookSecret()} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := b.start("--allow-trusted-local", "--github-app-id", fmt.Sprint(double.AppID()), "--github-key-file", key,
		"--github-webhook-secret-file", secret, "--github-url", double.URL())
	double.SetWebhook(b.url + "/webhooks/github")
	var unlucky int64
	push := func(name, labels string) (runID int64) {
		t.Helper()
		text := fmt.Sprintf("on: push\njobs:\n  %s:\n    runs-on: [%s]\n    steps: [{run: echo fine}]\n", name, labels)
		runs, err := double.Push(b.ctx, "octo/"+name, fstest.MapFS{".github/workflows/ci.yml": {Data: []byte(text)}})
		if err != nil || len(runs) != 1 {
			t.Fatal(runs, err)
		}
		return runs[0]
	}
	b.drive("rerun.mjs", env, map[string]func(){
		"push strange": func() { push("strange", "nimbus, gold-plated") },
		"push unlucky": func() {
			double.Refuse(githubtest.Refusal{Operation: "actions/generate-runner-jitconfig-for-repo", Times: -1, Status: http.StatusConflict,
				Message: "Already exists"})
			unlucky = push("unlucky", "nimbus, local")
		},
		"mend": double.Accept,
		"over": func() {
			if _, err := double.WaitRun(b.ctx, unlucky); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestShells: what a terminal showed is played, and a held sandbox given up.
func TestShells(t *testing.T) {
	b := newBrowser(t)
	env := b.start()
	b.drive("shells.mjs", env, map[string]func(){
		"job": func() {
			b.run(env, "run", "--executor", "local", "--no-files", "--detach", "--name", "Look inside", "--hold", "10m", "--", "sh", "-c", "exit 3")
		},
		"shell": func() {
			shell := exec.CommandContext(b.ctx, b.nimbus, "shell", "last", "--", "sh", "-c", `printf '\033[32mgreen\033[0m\n'; sleep 1.5; echo from inside; exit 7`)
			shell.Env = env
			if out, err := shell.CombinedOutput(); shell.ProcessState.ExitCode() != 7 {
				t.Fatalf("%v: %s", err, out)
			}
		},
	})
}

// TestCache: an org's cache before anything is in it and after, and what is removed
// from its page is gone.
func TestCache(t *testing.T) {
	b := newBrowser(t)
	env := b.start()
	b.drive("cache.mjs", env, map[string]func(){
		"save": func() {
			const saves = `set -e
put() { printf "$2" | curl -sSf -T - -H "Authorization: Bearer $NIMBUS_CACHE_TOKEN" "$NIMBUS_CACHE_URL/$1"; }
put deps/first content; put deps/second 'more content'
i=0; while [ $i -lt 55 ]; do put other/a-key-that-is-rather-long-as-those-of-package-managers-are-$i x; i=$((i+1)); done`
			b.run(env, "run", "--executor", "local", "--no-files", "--", "sh", "-c", saves)
			b.putSlowly(env, "deps/under-way")
		},
		"gone": func() {
			if left := string(b.run(env, "cache", "ls", "--prefix", "deps/")); strings.Contains(left, "deps/first") || !strings.Contains(left, "deps/second") {
				t.Errorf("there is\n%s", left)
			}
		},
	})
}

// putSlowly begins to put a content under a key, which goes on until the test ends.
func (b *browser) putSlowly(env []string, key string) {
	b.t.Helper()
	fail := func(err error) {
		if err != nil {
			b.t.Fatal(err)
		}
	}
	var data string
	for _, v := range env {
		if rest, ok := strings.CutPrefix(v, "NIMBUS_DATA="); ok {
			data = rest
		}
	}
	token, err := os.ReadFile(filepath.Join(data, "admin.token"))
	fail(err)
	host := strings.TrimPrefix(b.url, "http://")
	conn, err := net.Dial("tcp", host)
	fail(err)
	_, err = fmt.Fprintf(conn, "PUT /cache/%s/%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n",
		nimbus.DefaultOrgID, key, host, strings.TrimSpace(string(token)))
	fail(err)
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") { // its content is read
		b.t.Fatalf("%q, %v", line, err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(5 * time.Second); ; {
			select {
			case <-tick.C: // who sends nothing for a minute is hung up on
				_, _ = conn.Write([]byte("x"))
			case <-stop:
				tick.Stop()
				return
			}
		}
	}()
	b.t.Cleanup(func() {
		close(stop)
		<-stopped
		conn.Close()
	})
}

// browser is what a test with a browser needs.
type browser struct {
	t            *testing.T
	ctx          context.Context
	root, nimbus string
	url          string // of the server that was started
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	testenv.Require(t, "chromium", "node")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, root: root, nimbus: filepath.Join(root, "bin", "nimbus")}
	if _, err := os.Stat(b.nimbus); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	t.Cleanup(cancel)
	b.ctx = ctx
	return b
}

// drive runs a script in Chromium, and does what it asks for by a word.
func (b *browser) drive(script string, env []string, does map[string]func()) {
	b.t.Helper()
	screenshots := filepath.Join(b.root, "test", "results", "browser")
	if err := os.MkdirAll(screenshots, 0o755); err != nil {
		b.t.Fatal(err)
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		b.t.Fatal(err)
	}
	node := exec.CommandContext(b.ctx, "node", "test/browser/"+script)
	node.Dir = b.root
	node.Env = append(os.Environ(), "LINK="+b.loginLink(env), "SCREENSHOTS="+screenshots, "CHROMIUM="+chromium)
	var stderr bytes.Buffer
	node.Stderr = &stderr
	answers, err := node.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	says, err := node.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		b.t.Fatal(err)
	}
	done := false
	for lines := bufio.NewScanner(says); lines.Scan(); {
		word := lines.Text()
		switch do := does[word]; {
		case do != nil:
			do()
			fmt.Fprintln(answers, "done")
		case word == "done":
			done = true
		default:
			b.t.Logf("browser: %s", word)
		}
	}
	if err := node.Wait(); err != nil || !done {
		b.t.Fatalf("the browser did not get through: %v\n%s", err, stderr.String())
	}
}

// start runs `nimbus up` on a free port until the test ends and returns the
// environment with which the command line finds it.
func (b *browser) start(args ...string) []string {
	t, ctx := b.t, b.ctx
	t.Helper()
	addr := testenv.FreeAddress(t)
	data, err := os.MkdirTemp("", "nbr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })

	up := exec.CommandContext(ctx, b.nimbus, append([]string{"up", "--listen", addr, "--data", data}, args...)...)
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
	b.url = "http://" + addr
	await(ctx, t, b.url+"/readyz")
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

func (b *browser) loginLink(env []string) string {
	b.t.Helper()
	var answer struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(b.run(env, "login", "--json"), &answer); err != nil {
		b.t.Fatal(err)
	}
	return answer.URL
}

func (b *browser) run(env []string, args ...string) []byte {
	b.t.Helper()
	cmd := exec.CommandContext(b.ctx, b.nimbus, args...)
	cmd.Env = env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("nimbus %s: %v\n%s", args[0], err, stderr.String())
	}
	return out
}
