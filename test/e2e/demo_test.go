package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// demoOutcome is what the tests read of `nimbus up --demo --json`.
type demoOutcome struct {
	Jobs []struct {
		Name     string            `json:"name"`
		State    string            `json:"state"`
		Result   string            `json:"result"`
		Expected string            `json:"expected"`
		ExitCode *int              `json:"exit_code"`
		Timeline map[string]string `json:"timeline"`
	} `json:"jobs"`
	Problems []string `json:"problems"`
}

func (m *machine) demo(t *testing.T, args ...string) (demoOutcome, string, int) {
	t.Helper()
	stdout, stderr, code := m.nimbus(t, t.TempDir(), append([]string{"up", "--demo", "--json", "--executors", "local"}, args...)...)
	var o demoOutcome
	if err := json.Unmarshal([]byte(stdout), &o); err != nil {
		t.Fatalf("exit code %d, %v: %s\n%s", code, err, stdout, stderr)
	}
	return o, stderr, code
}

// TestDemo runs the demo twice in one place, on the executor that every
// machine has.
func TestDemo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for range 2 {
		o, said, code := m.demo(t, "--allow-trusted-local")
		if code != 0 || len(o.Jobs) != 3 || len(o.Problems) > 0 {
			t.Fatalf("exit code %d, %d jobs, %q\n%s", code, len(o.Jobs), o.Problems, said)
		}
		for _, j := range o.Jobs {
			if j.Result != j.Expected || j.ExitCode == nil || (*j.ExitCode == 0) != (j.Expected == "success") || j.Timeline["destroyed_at"] == "" {
				t.Errorf("%+v", j)
			}
		}
		for _, want := range []string{"▸ Compile", "this job is meant to fail", "but this runs always", "/login?code="} {
			if !strings.Contains(said, want) {
				t.Errorf("it never said %q:\n%s", want, said)
			}
		}
		if strings.Contains(said, "a failed step skips what follows") {
			t.Error("a step ran that a failed one should have skipped")
		}
	}
}

// TestDemoInterrupted: Ctrl-C leaves nothing running.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	m, repo := newMachine(t), t.TempDir()
	workflows := filepath.Join(repo, ".github", "workflows")
	if err := os.MkdirAll(workflows, 0o755); err != nil {
		t.Fatal(err)
	}
	const endless = "name: CI\non: [push]\njobs:\n  endless:\n    runs-on: [nimbus]\n    steps:\n      - run: echo it runs; sleep 1000\n"
	if err := os.WriteFile(filepath.Join(workflows, "ci.yml"), []byte(endless), 0o644); err != nil {
		t.Fatal(err)
	}
	p := m.start(t, "", "up", "--demo", "--executors", "local", "--allow-trusted-local", "--repo", repo)
	await(t, time.Minute, "the job runs", func() bool { return strings.Contains(p.stdout.String(), "it runs") })
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(60 * time.Second); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if strings.Contains(p.stdout.String(), "left behind") {
		t.Error("it left something behind")
	}
	checkGone(t, filepath.Join(m.data, "demo"))
}

// TestDemoWithoutMachines: jobs from GitHub don't run on the local executor
// unless that is allowed, and the demo says so.
func TestDemoWithoutMachines(t *testing.T) {
	t.Parallel()
	o, said, code := newMachine(t).demo(t)
	if code != 1 || len(o.Problems) == 0 || !strings.Contains(said, "--allow-trusted-local") {
		t.Errorf("exit code %d, %q\n%s", code, o.Problems, said)
	}
	for _, j := range o.Jobs {
		if j.State != "unschedulable" {
			t.Errorf("%s is %s", j.Name, j.State)
		}
	}
}

// TestIdle bounds what a server with nothing to do costs. bench/idle measures.
func TestIdle(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	p := m.up(t)
	await(t, time.Minute, "the agent is there", func() bool { return strings.Contains(m.must(t, "hosts"), "ready") })
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("resident: %d MB", kib*1024/1_000_000)
	if kib*1024 > 120_000_000 {
		t.Errorf("%d KiB resident, more than 120 MB", kib)
	}
}
