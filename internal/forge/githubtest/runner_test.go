package githubtest_test

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/runner"
)

// workflow makes a one-job workflow of steps, each a YAML list item.
func workflowOf(steps string) string {
	return "on: push\nenv: {LEVEL: workflow, WIDE: workflow}\njobs:\n  a:\n    runs-on: nimbus\n    env: {LEVEL: job}\n    steps:\n" + steps
}

// runJob runs a one-job workflow to its end.
func (w *world) runJob(steps string) (exit int, stdout string, job githubtest.Job) {
	w.t.Helper()
	j := w.push(project(workflowOf(steps))).Jobs[0]
	_, jit := w.mint(j, "r"+w.t.Name())
	r := w.run(jit)
	exit = r.wait(w.t)
	job, err := w.WaitJob(w.ctx, j.ID, completed)
	if err != nil {
		w.t.Fatal(err)
	}
	return exit, r.out.String(), job
}

func TestScripts(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		steps   string
		exit    int
		says    []string
		conceal []string
	}{
		"environment": {steps: `
      - run: echo "level $LEVEL wide $WIDE"
      - run: echo "here $LEVEL"
        env: {LEVEL: step, GITHUB_ACTIONS: mine}
      - run: |
          echo "CI=$CI $GITHUB_ACTIONS $GITHUB_REPOSITORY $GITHUB_REF $GITHUB_REF_NAME $GITHUB_JOB"
          echo "sha ${#GITHUB_SHA} run $GITHUB_RUN_ID"
          test "$PWD" = "$GITHUB_WORKSPACE" && echo in workspace
          echo "jit [$ACTIONS_RUNNER_INPUT_JITCONFIG]"
`, says: []string{"level job wide workflow\n", "here step\n", "CI=true true octo-org/hello refs/heads/main main a\n", "sha 40 run 3", "in workspace\n", "jit []\n"}},
		"command files": {steps: `
      - run: |
          echo "ONE=1" >> "$GITHUB_ENV"
          printf 'MANY<<END\na\nb=c\nEND\n' >> "$GITHUB_ENV"
          echo "out=put" >> "$GITHUB_OUTPUT"
          mkdir tools; printf '#!/bin/sh\necho from the path\n' > tools/mytool; chmod +x tools/mytool
          echo "$PWD/tools" >> "$GITHUB_PATH"
      - run: |
          echo "one $ONE"; echo "many $MANY"; mytool
`, says: []string{"one 1\n", "many a\nb=c\n", "from the path\n"}},
		"bad command file": {steps: `
      - run: echo nonsense >> "$GITHUB_ENV"
      - run: echo too far
        name: after
`, exit: 1, says: []string{"has no name and value"}, conceal: []string{"too far"}},
		"command file is a pipe": {steps: `
      - run: rm "$GITHUB_ENV"; mkfifo "$GITHUB_ENV"
`, exit: 1, says: []string{"no plain file"}},
		"GITHUB_ variables stay": {steps: `
      - run: echo "GITHUB_SHA=1" >> "$GITHUB_ENV"
`, exit: 1, says: []string{"GITHUB_SHA can't be set"}},
		"masks": {steps: `
      - name: secrets
        run: |
          echo "::add-mask::hunter2"
          echo "the password is hunter2"
          printf 'hun'; printf 'ter2\n'
          head -c 70000 /dev/zero | tr '\0' x; printf 'hunter2'; head -c 70000 /dev/zero | tr '\0' x
`, says: []string{"the password is ***\n", "xxx***xxx"}, conceal: []string{"hunter2"}},
		"stderr is kept in order": {steps: `
      - run: |
          echo 1; echo 2 >&2; echo 3; echo 4 >&2
`, says: []string{"1\n2\n3\n4\n"}},
		"first failure counts": {steps: `
      - run: exit 4
        continue-on-error: true
      - run: "false | true; echo no pipefail"
      - run: "false | true; echo not reached"
        name: pipefail
        shell: bash
      - run: exit 9
        if: always()
`, exit: 1, says: []string{"no pipefail", "exit code 4", "exit code 9"}, conceal: []string{"not reached"}},
		"killed by a signal": {steps: `
      - run: kill -KILL $$
`, exit: 137, says: []string{"exit code 137"}},
		"unknown action": {steps: `
      - uses: actions/setup-go@v5
`, exit: 1, says: []string{"actions/setup-go@v5 is not supported"}},
		"checkout": {steps: `
      - uses: actions/checkout@v4
      - run: cat README.md; pwd
        working-directory: .github/..
`, says: []string{"hello\n", "Unpacked 2 files"}},
		"no such folder": {steps: `
      - run: echo
        working-directory: nowhere
`, exit: 1, says: []string{"nowhere"}},
		"what is left running does not hold the job": {steps: `
      - run: sleep 60 & echo "left $!"
`, says: []string{"left "}},
		"line without an end": {steps: `
      - run: printf unfinished
      - run: echo next
        name: then
`, says: []string{"unfinished\n::nimbus-step::then\nnext\n"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			exit, stdout, job := w.runJob(tt.steps)
			if exit != tt.exit {
				t.Errorf("exit code %d, want %d", exit, tt.exit)
			}
			for _, where := range []string{stdout, strings.ReplaceAll(job.Log, "##[group]", "::nimbus-step::")} {
				for _, want := range tt.says {
					if !strings.Contains(where, want) {
						t.Errorf("%q is missing in:\n%.2000s", want, where)
					}
				}
				for _, secret := range tt.conceal {
					if strings.Contains(where, secret) {
						t.Errorf("%q is in:\n%.2000s", secret, where)
					}
				}
			}
		})
	}
}

// TestRunnerSurvivesTheNetwork: while the double can't be reached, calls are
// tried again; nothing of the log is lost or doubled.
func TestRunnerSurvivesTheNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	target, err := url.Parse(w.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	var mu sync.Mutex
	calls := map[string]int{} // by path: of three tries in a row, one gets through
	try := func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		calls[path]++
		return calls[path] % 3
	}
	relay := httpServer(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch try(r.URL.Path) {
		case 1:
			http.Error(rw, "bad gateway", http.StatusBadGateway)
			return
		case 2: // done there, but the answer is lost
			if strings.HasSuffix(r.URL.Path, "/log") {
				proxy.ServeHTTP(discard{http.Header{}}, r)
				panic(http.ErrAbortHandler)
			}
		}
		proxy.ServeHTTP(rw, r)
	}))
	job := w.push(project(workflowOf(`
      - run: for i in $(seq 1 5000); do echo "line $i"; done
`))).Jobs[0]
	_, jit := w.mint(job, "r1")
	config, err := protocol.Decode(jit)
	if err != nil {
		t.Fatal(err)
	}
	config.ServerURL = relay
	if jit, err = config.Encode(); err != nil {
		t.Fatal(err)
	}
	if code := w.runPatient(jit, time.Minute).wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	job, err = w.WaitJob(w.ctx, job.ID, completed)
	if err != nil || job.Conclusion != "success" {
		t.Errorf("%s, %v", job.Conclusion, err)
	}
	if n := strings.Count(job.Log, "\nline "); n != 5000 {
		t.Errorf("%d lines, want 5000; log:\n%.1000s", n, job.Log)
	}
}

// discard is where an answer is lost.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// httpServer serves until the test's end and returns its address.
func httpServer(t *testing.T, h http.Handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	return "http://" + listener.Addr().String()
}

func TestRunnerRefusesBadConfigurations(t *testing.T) {
	t.Parallel()
	gone, err := protocol.Config{RunnerID: 1, ServerURL: "http://127.0.0.1:1", Token: "t0ken"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		jit  string
		code int
	}{
		"empty":       {"", 78},
		"no base64":   {"secret!", 78},
		"no JSON":     {"c2VjcmV0", 78},
		"GitHub's":    {"eyIucnVubmVyIjoiZTMwPSIsIi5jcmVkZW50aWFscyI6ImUzMD0ifQ==", 78},
		"server gone": {gone, 69},
	} {
		var out, errs output
		code := runner.Run(t.Context(), runner.Config{JITConfig: tt.jit, Dir: t.TempDir(), Stdout: &out, Stderr: &errs, RetryFor: 300 * time.Millisecond})
		if code != tt.code || errs.String() == "" || strings.Contains(errs.String(), "secret") || strings.Contains(errs.String(), "t0ken") {
			t.Errorf("%s: %d %q", name, code, errs.String())
		}
	}
}

// TestProgram runs the built nimbus-runner: configuration in the environment,
// and SIGTERM cancels the job.
func TestProgram(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "nimbus-runner")
	build := exec.Command("go", "build", "-o", bin, "../../../cmd/nimbus-runner")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := newWorld(t)
	job := w.push(project(workflowOf(`
      - run: |
          echo "jit [$ACTIONS_RUNNER_INPUT_JITCONFIG]"
          sleep 60 # bounds what is left when the test itself is killed
`))).Jobs[0]
	_, jit := w.mint(job, "r1")
	cmd := exec.Command(bin)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), protocol.EnvJITConfig+"="+jit)
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, unless the test failed
	_, waitErr := w.WaitJob(w.ctx, job.ID, func(j githubtest.Job) bool { return strings.Contains(j.Log, "jit []") })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if waitErr != nil || cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("exit code %d, %v, output:\n%s", cmd.ProcessState.ExitCode(), waitErr, out.String())
	}
	job, err := w.WaitJob(w.ctx, job.ID, completed)
	if err != nil || job.Conclusion != "cancelled" {
		t.Errorf("%s, %v", job.Conclusion, err)
	}
	if strings.Contains(out.String(), jit) || strings.Contains(job.Log, jit) {
		t.Error("the configuration is in the output")
	}
}
