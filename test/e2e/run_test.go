package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runEvent is what the tests read of `nimbus run --json`.
type runEvent struct {
	Event string `json:"event"`
	Line  struct {
		Text string `json:"text"`
	} `json:"line"`
	Job struct {
		Result   string            `json:"result"`
		ExitCode int               `json:"exit_code"`
		Timeline map[string]string `json:"timeline"`
	} `json:"job"`
}

func TestRun(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	up := m.up(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\necho from the tool, $WHO\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Run("files, streams, environment and exit code", func(t *testing.T) {
		stdout, stderr, code := m.nimbus(t, dir, "run", "--env", "WHO=a=b;c", "--", "sh", "-c", "./tool; echo to stderr >&2; touch new; exit 3")
		if code != 3 || stdout != "from the tool, a=b;c\n" || !strings.Contains(stderr, "to stderr\n") {
			t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
		}
		if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
			t.Error("the job wrote into the user's own directory")
		}
	})
	t.Run("JSON", func(t *testing.T) {
		stdout, _, code := m.nimbus(t, dir, "run", "--no-files", "--json", "--", "sh", "-c", "ls -A; echo out; exit 4")
		var events []runEvent
		for d := json.NewDecoder(strings.NewReader(stdout)); d.More(); {
			var e runEvent
			if err := d.Decode(&e); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		if code != 4 || len(events) != 2 || events[0].Line.Text != "out" || events[1].Job.ExitCode != 4 || events[1].Job.Result != "failure" || events[1].Job.Timeline["running_at"] == "" {
			t.Errorf("exit code %d, %s", code, stdout)
		}
	})
	t.Run("what the shell kills", func(t *testing.T) {
		if _, stderr, code := m.nimbus(t, dir, "run", "--no-files", "--", "sh", "-c", "kill -SEGV $$"); code != 128+11 {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
	t.Run("a command that isn't", func(t *testing.T) {
		if _, stderr, code := m.nimbus(t, dir, "run", "--no-files", "--", "no-such-program"); code == 0 || !strings.Contains(stderr, "no-such-program") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
	t.Run("an image that isn't", func(t *testing.T) {
		if _, stderr, code := m.nimbus(t, dir, "run", "--no-files", "--image", "nowhere", "--", "true"); code != 70 || !strings.Contains(stderr, "nowhere") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
	t.Run("too long", func(t *testing.T) {
		if _, stderr, code := m.nimbus(t, dir, "run", "--no-files", "--timeout", "1s", "--", "sleep", "100"); code != 72 {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
	t.Run("nobody has so many CPUs", func(t *testing.T) {
		if _, stderr, code := m.nimbus(t, dir, "run", "--no-files", "--cpu", "500", "--", "true"); code != 75 {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
	if code := up.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("up ended with %d", code)
	}
	checkGone(t, m.data)
}

func TestCtrlC(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.up(t)
	for name, tt := range map[string]struct {
		script string
		twice  bool
		want   string
		signal syscall.Signal
		code   int
	}{
		"once":                  {script: "trap 'echo ending; exit 0' TERM; echo ready; sleep 1000 & wait", want: "ready\nending\n", signal: syscall.SIGINT, code: 130},
		"asked by a supervisor": {script: "trap 'echo ending; exit 0' TERM; echo ready; sleep 1000 & wait", want: "ready\nending\n", signal: syscall.SIGTERM, code: 143},
		"its terminal is gone":  {script: "trap 'echo ending; exit 0' TERM; echo ready; sleep 1000 & wait", want: "ready\nending\n", signal: syscall.SIGHUP, code: 129},
		"twice":                 {script: "trap '' TERM; echo ready; while :; do sleep 1; done", twice: true, want: "ready\n", signal: syscall.SIGINT, code: 130},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := m.start(t, t.TempDir(), "run", "--no-files", "--", "sh", "-c", tt.script)
			await(t, time.Minute, "the job says that it is ready", func() bool { return strings.Contains(run.stdout.String(), "ready\n") })
			if err := run.cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			await(t, time.Minute, "it tells that it cancels", func() bool { return strings.Contains(run.stderr.String(), "cancelling") })
			if tt.twice {
				if err := run.cmd.Process.Signal(tt.signal); err != nil {
					t.Fatal(err)
				}
			}
			if code := run.wait(time.Minute); code != tt.code {
				t.Errorf("exit code %d", code)
			}
			if got := run.stdout.String(); got != tt.want {
				t.Errorf("stdout %q, want %q", got, tt.want)
			}
			id, _, _ := strings.Cut(run.stderr.String(), ",")
			await(t, 90*time.Second, "the job is cancelled", func() bool {
				return strings.Contains(m.must(t, "job", "--json", strings.TrimSpace(id)), `"result":"cancelled"`)
			})
		})
	}
	t.Cleanup(func() { checkGone(t, m.data) })
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.up(t, "--no-agent")
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a second up":       {[]string{"up", "--listen", "127.0.0.1:0"}, 1, "--data"},
		"a port in use":     {[]string{"up", "--data", t.TempDir(), "--listen", m.addr}, 1, "--listen"},
		"others could read": {[]string{"up", "--data", t.TempDir(), "--listen", "0.0.0.0:0"}, 1, "--tls-cert"},
		"no such command":   {[]string{"runn"}, 2, "run"},
		"no such job":       {[]string{"job", "job_00000000000000000000000000"}, 1, "job"},
		"no job's id":       {[]string{"job", "../etc"}, 1, "job"},
		"plain http":        {[]string{"jobs", "--server", "http://192.0.2.1:8080"}, 1, "https"},
		"nobody there":      {[]string{"jobs", "--server", "http://127.0.0.1:1"}, 74, "127.0.0.1:1"},
		"no token":          {[]string{"jobs", "--data", t.TempDir()}, 1, "NIMBUS_TOKEN"},
		"half an App":       {[]string{"up", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--github-app-id", "1"}, 2, "--github-key-file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := m.nimbus(t, t.TempDir(), tt.args...)
			if code != tt.code || !strings.Contains(stderr, tt.says) || stdout != "" {
				t.Errorf("exit code %d, want %d; stdout %q, stderr %q", code, tt.code, stdout, stderr)
			}
			var v struct {
				Error struct {
					Code    string `json:"code"`
					Message string `json:"message"`
				} `json:"error"`
			}
			_, stderr, _ = m.nimbus(t, t.TempDir(), append(tt.args, "--json")...)
			if err := json.Unmarshal([]byte(stderr), &v); err != nil || v.Error.Code == "" || v.Error.Message == "" {
				t.Errorf("with --json: %v: %s", err, stderr)
			}
		})
	}
}

func TestNoTokenOnAnyCommandLine(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.up(t)
	m.must(t, "run", "--detach", "--no-files", "--name", "argv", "--", "sleep", "1000")
	await(t, time.Minute, "the job runs", func() bool { return strings.Contains(m.must(t, "jobs", "--json"), `"state":"running"`) })
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		if args, err := os.ReadFile(filepath.Join(p, "cmdline")); err == nil && strings.Contains(string(args), "nbs_") {
			t.Errorf("process %s has a token on its command line", filepath.Base(p))
		}
	}
	for _, name := range []string{"admin.token", "nimbus.db", "agent/credential.json"} {
		info, err := os.Stat(filepath.Join(m.data, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	m.must(t, "cancel", "last")
	m.must(t, "logs", "-f", "last")
}
