package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shownTrace is what the tests read of `nimbus job trace --json`.
type shownTrace struct {
	TraceID string `json:"trace_id"`
	Spans   []struct {
		TraceID    string            `json:"trace_id"`
		SpanID     string            `json:"span_id"`
		Parent     string            `json:"parent_span_id"`
		Name       string            `json:"name"`
		Service    string            `json:"service"`
		Lifecycle  bool              `json:"lifecycle"`
		Attributes map[string]string `json:"attributes"`
	} `json:"spans"`
	Sent int64 `json:"sent"`
	Logs int64 `json:"logs"`
}

func (m *machine) trace(t *testing.T, id string) (v shownTrace) {
	t.Helper()
	if err := json.Unmarshal([]byte(m.must(t, "job", "trace", "--json", id)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// tracedFolder has a job that sends telemetry, and recordings of what other clients
// send.
func tracedFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "otlpjob"), "./test/e2e/testdata/otlpjob")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the job: %v\n%s", err, out)
	}
	for _, name := range []string{"promptfoo-otel-traces-01.json", "eval2otel-traces-04.pb", "semconv-event-logs-02.json"} {
		raw, err := os.ReadFile(filepath.Join("../../internal/telemetry/otlp/testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// recorded are the requests of others, by where they send them.
var recorded = []string{"/=promptfoo-otel-traces-01.json", "/v1/traces=eval2otel-traces-04.pb", "/v1/logs=semconv-event-logs-02.json"}

// checkTrace: the job's own spans are in the trace of its life, below the part in
// which it ran; those of clients that know nothing of it are beside them.
func (m *machine) checkTrace(t *testing.T, id string) {
	t.Helper()
	v := m.trace(t, id)
	run, work, others, twice := "", 0, 0, map[string]bool{}
	for _, s := range v.Spans {
		if s.Lifecycle && s.Name == "run" {
			run = s.SpanID
		}
		if key := s.TraceID + s.SpanID; twice[key] {
			t.Errorf("span %s is there twice", s.Name)
		} else {
			twice[key] = true
		}
	}
	for _, s := range v.Spans {
		switch {
		case s.Name == "work":
			work++
			if s.TraceID != v.TraceID || s.Parent != run || s.Attributes["told"] != "it is ***" || s.Attributes["n"] != "7" || s.Service == "" {
				t.Errorf("the job's span: %+v, in trace %s below %s", s, v.TraceID, run)
			}
		case s.Service == "promptfoo":
			others++
		}
	}
	if run == "" || work != 1 || others != 23 || v.Sent != 23+3+1 || v.Logs != 1 {
		t.Errorf("run %q, %d of its own, %d of promptfoo; %d sent, %d records", run, work, others, v.Sent, v.Logs)
	}
	if records := m.must(t, "job", "telemetry", id, "logs"); !strings.Contains(records, "gen_ai.evaluation.result") {
		t.Errorf("its records:\n%s", records)
	}
}

// TestTelemetry: what a job tells by OTLP is there once it has ended.
func TestTelemetry(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.up(t)
	stdout, stderr, code := m.nimbus(t, tracedFolder(t), append([]string{"run", "--", "./otlpjob"}, recorded...)...)
	if code != 0 || strings.Count(stdout, " 200\n") != 3 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	m.checkTrace(t, "last")

	// An org that wants none has none, and its jobs run on.
	m.must(t, "orgs", "telemetry", "off")
	if out, _, code := m.nimbus(t, t.TempDir(), "run", "--no-files", "--", "sh", "-c", "echo endpoint=$OTEL_EXPORTER_OTLP_ENDPOINT."); code != 0 || !strings.Contains(out, "endpoint=.") {
		t.Errorf("with none: %d, %s", code, out)
	}
}

// TestTelemetryRestart: an agent that starts anew goes on, and each span is there
// once.
func TestTelemetryRestart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	up := m.up(t)
	signals := t.TempDir()
	dir := tracedFolder(t)
	stdout, stderr, code := m.nimbus(t, dir, "run", "--detach", "--", "./otlpjob", "--wait="+signals+"/go")
	if code != 0 {
		t.Fatal(stdout + stderr)
	}
	id := strings.TrimSpace(stdout)
	follow := m.start(t, t.TempDir(), "logs", "-f", id)
	await(t, time.Minute, "turns", func() bool { return strings.Contains(follow.stdout.String(), "turn 5\n") })
	up.signal(syscall.SIGKILL)
	m.up(t)
	before := len(follow.stdout.String())
	await(t, time.Minute, "the log goes on", func() bool { return len(follow.stdout.String()) > before+40 })
	if err := os.WriteFile(filepath.Join(signals, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := follow.wait(time.Minute); code != 0 {
		t.Fatalf("the job ended with %d:\n%s", code, follow.stdout.String())
	}
	turns := strings.Count(follow.stdout.String(), "turn ")
	await(t, time.Minute, "all spans are there, once", func() bool {
		v, seen := m.trace(t, id), map[string]int{}
		for _, s := range v.Spans {
			seen[s.Name]++
		}
		for i := range turns {
			if seen[fmt.Sprint("turn ", i)] != 1 {
				return false
			}
		}
		return seen["work"] == 1 && v.Sent == int64(turns)+1 // none was stored twice
	})
}

// TestTelemetryMicroVM: the same from within a machine of its own, at the port of
// the standard.
func TestTelemetryMicroVM(t *testing.T) {
	images := requireMicroVMs(t)
	m := newMachine(t)
	m.microVMs(t, images)
	job := m.start(t, tracedFolder(t), append([]string{"run", "--", "./otlpjob"}, recorded...)...)
	if code := job.wait(microVMStart); code != 0 || strings.Count(job.stdout.String(), " 200\n") != 3 {
		t.Fatalf("exit code %d", code)
	}
	m.checkTrace(t, "last")
}
