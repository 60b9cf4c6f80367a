package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shownJob is what the tests read of `nimbus job --json`.
type shownJob struct {
	Job struct {
		State        string `json:"state"`
		Result       string `json:"result"`
		ExitCode     *int   `json:"exit_code"`
		AttemptCount int    `json:"attempt_count"`
		LogComplete  bool   `json:"log_complete"`
	} `json:"job"`
	Events []struct {
		Kind   string `json:"kind"`
		Detail string `json:"detail"`
	} `json:"events"`
}

func (m *machine) job(t *testing.T, id string) shownJob {
	t.Helper()
	var v shownJob
	if err := json.Unmarshal([]byte(m.must(t, "job", "--json", id)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRestart stops `nimbus up` while a job runs. The job goes on, the next
// start takes it over, and who follows its log misses nothing.
func TestRestart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	up := m.up(t)
	signals := t.TempDir()
	id := strings.TrimSpace(m.must(t, "run", "--detach", "--no-files", "--", "sh", "-c",
		"i=0; while [ ! -e "+signals+"/go ]; do i=$((i+1)); echo line $i; sleep 0.05; done; echo $i > "+signals+"/count; exit 5"))
	follow := m.start(t, t.TempDir(), "logs", "-f", id)
	await(t, time.Minute, "the log comes", func() bool { return strings.Contains(follow.stdout.String(), "line 10\n") })

	if code := up.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("up ended with %d", code)
	}
	before := follow.stdout.String()
	up = m.up(t)
	await(t, time.Minute, "the log goes on", func() bool { return len(follow.stdout.String()) > len(before)+100 })
	if err := os.WriteFile(filepath.Join(signals, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := follow.wait(time.Minute); code != 0 {
		t.Errorf("logs -f ended with %d", code)
	}
	raw, err := os.ReadFile(filepath.Join(signals, "count"))
	if err != nil {
		t.Fatal(err)
	}
	var count int
	fmt.Sscan(string(raw), &count)
	var want strings.Builder
	for i := 1; i <= count; i++ {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if got := follow.stdout.String(); got != want.String() {
		t.Errorf("the log that was followed has %d bytes, want %d", len(got), want.Len())
	}
	j := m.job(t, id)
	if j.Job.Result != "failure" || j.Job.ExitCode == nil || *j.Job.ExitCode != 5 || j.Job.AttemptCount != 1 || !j.Job.LogComplete {
		t.Errorf("the job: %+v", j.Job)
	}
	checkGone(t, m.data)

	// History outlives another restart, and the token is not shown again.
	up.signal(syscall.SIGTERM)
	up = m.up(t)
	if got := m.must(t, "logs", id); got != want.String() {
		t.Errorf("after a restart the log has %d bytes, want %d", len(got), want.Len())
	}
	if strings.Contains(up.stderr.String(), "nbs_admin") {
		t.Error("a later start shows the administrator's token")
	}
}

// TestAgentKilled kills an agent in the midst of two jobs. Their shims end them
// at the deadline; then, and not before, the one that may be repeated runs on
// another host, and the other is lost.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.up(t, "--no-agent")
	agent := func(name string) *program {
		data := filepath.Join(m.data, name)
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
		token := filepath.Join(data, "join.token")
		if err := os.WriteFile(token, []byte(m.must(t, "hosts", "token")), 0o600); err != nil {
			t.Fatal(err)
		}
		p := m.start(t, "", "agent", "--executors", "local", "--data", data, "--name", name, "--join-token-file", token, "--cpus", "4", "--memory", "8192")
		await(t, time.Minute, name+" joins", func() bool { return strings.Contains(m.must(t, "hosts"), " "+name+" ") })
		return p
	}
	first := agent("first")
	dir := t.TempDir()
	script := func(name string) string {
		// The lock is held for as long as the job lives: who finds it taken is
		// a second execution at the same time.
		return fmt.Sprintf("cd %s; exec 9>%s.lock; flock -n 9 || touch violated; echo run >> %s.runs; "+
			"if [ $(wc -l < %s.runs) = 2 ]; then echo second; exit 6; fi; trap '' TERM; while :; do sleep 1; done", dir, name, name, name)
	}
	repeatable := strings.TrimSpace(m.must(t, "run", "--detach", "--no-files", "--repeatable", "--", "sh", "-c", script("repeatable")))
	once := strings.TrimSpace(m.must(t, "run", "--detach", "--no-files", "--", "sh", "-c", script("once")))
	for _, id := range []string{repeatable, once} {
		await(t, time.Minute, "it runs", func() bool { return m.job(t, id).Job.State == "running" })
	}
	await(t, time.Minute, "both have begun", func() bool {
		_, err1 := os.Stat(filepath.Join(dir, "repeatable.runs"))
		_, err2 := os.Stat(filepath.Join(dir, "once.runs"))
		return err1 == nil && err2 == nil
	})
	firstDir := filepath.Join(m.data, "first", "agent") + "/"
	if len(processes(t, firstDir)) == 0 {
		t.Fatal("no process of a sandbox is found: the check below would prove nothing")
	}
	killed := time.Now()
	first.signal(syscall.SIGKILL)
	second := agent("second")

	await(t, time.Minute, "the shims have ended the sandboxes", func() bool { return len(processes(t, firstDir)) == 0 })
	t.Logf("the sandboxes were gone after %s", time.Since(killed).Round(time.Second))
	for id, want := range map[string]string{repeatable: "failure", once: "lost"} {
		await(t, 60*time.Second, "it is over", func() bool { return m.job(t, id).Job.State == "finished" })
		if j := m.job(t, id); j.Job.Result != want {
			t.Errorf("%s ended with %s, want %s: %+v", id, j.Job.Result, want, j.Events)
		}
	}
	t.Logf("the jobs were over after %s", time.Since(killed).Round(time.Second))
	if j := m.job(t, repeatable); j.Job.ExitCode == nil || *j.Job.ExitCode != 6 {
		t.Errorf("the repeated job: %+v", j.Job)
	}
	if _, err := os.Stat(filepath.Join(dir, "violated")); err == nil {
		t.Error("there were two executions of one job at the same time")
	}
	for name, want := range map[string]int{"repeatable": 2, "once": 1} {
		if got, err := os.ReadFile(filepath.Join(dir, name+".runs")); err != nil || string(got) != strings.Repeat("run\n", want) {
			t.Errorf("%s ran %q, %v", name, got, err)
		}
	}

	// The first host comes back and clears away what is fenced by now.
	third := m.start(t, "", "agent", "--executors", "local", "--data", filepath.Join(m.data, "first"), "--name", "first")
	checkGone(t, filepath.Join(m.data, "first"))
	checkGone(t, filepath.Join(m.data, "second"))
	for _, p := range []*program{second, third} {
		if code := p.signal(syscall.SIGTERM); code != 0 {
			t.Errorf("an agent ended with %d", code)
		}
	}
}
