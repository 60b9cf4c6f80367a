package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/flagrange"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// leaves are all commands, and their flags and arguments, by how they are named.
func leaves(t *testing.T) map[string]*kong.Value {
	t.Helper()
	p, err := parser(&root{}, Streams{Out: os.Stdout, Err: os.Stderr}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*kong.Value{}
	for _, n := range p.Model.Leaves(false) {
		for _, v := range n.Positional {
			out[n.Path()+" "+v.Name] = v
		}
		for _, f := range n.Flags {
			out[n.Path()+" --"+f.Name] = f.Value
		}
	}
	return out
}

// TestEveryNumberHasARange, which is looked at before anything is sent.
func TestEveryNumberHasARange(t *testing.T) {
	t.Parallel()
	all := leaves(t)
	n := 0
	for name, v := range all {
		if err := flagrange.Valid(v); err != nil {
			t.Errorf("the range of %s: %v", name, err)
		}
		if flagrange.Ranged(v) {
			n++
			if v.Tag.Get(flagrange.Tag) == "" {
				t.Errorf("%s takes any number: say what is allowed, by the tag %s", name, flagrange.Tag)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d numbers were found", n)
	}
}

// TestRangesAreTheServers: what the command line allows is what the server does.
func TestRangesAreTheServers(t *testing.T) {
	t.Parallel()
	hours := func(d time.Duration) string { return fmt.Sprintf("1s..%dh", int(d.Hours())) }
	all := leaves(t)
	for name, want := range map[string]string{
		"run --cpu":                       fmt.Sprintf("1..%d", nimbus.MaxCPUs),
		"run --memory":                    fmt.Sprintf("1..%d", nimbus.MaxMemoryMiB),
		"run --timeout":                   hours(nimbus.MaxTimeout),
		"run --queue-timeout":             hours(nimbus.MaxQueueTimeout),
		"run --priority":                  fmt.Sprintf("%d..%d", nimbus.MinPriority, nimbus.MaxPriority),
		"limits set --most":               fmt.Sprintf("0..%d", scheduler.MaxLimit),
		"weights set repo percent":        fmt.Sprintf("1..%d", scheduler.MaxWeight),
		"weights set org percent":         fmt.Sprintf("1..%d", scheduler.MaxWeight),
		"reruns set --per-run":            fmt.Sprintf("0..%d", nimbus.MaxRerunsPerRun),
		"reruns set --per-hour":           fmt.Sprintf("0..%d", nimbus.MaxRerunsPerHour),
		"tokens create --valid-for":       hours(nimbus.MaxTokenFor),
		"users token --valid-for":         hours(nimbus.MaxTokenFor),
		"hosts token --valid-for":         hours(identity.MaxJoinFor),
		"migrate workflows --cpu":         fmt.Sprintf("1..%d", nimbus.MaxCPUs),
		"migrate workflows --memory":      fmt.Sprintf("1..%d", nimbus.MaxMemoryMiB>>10),
		"snapshots create --cpus":         fmt.Sprintf("1..%d", nimbus.MaxCPUs),
		"snapshots create --memory":       fmt.Sprintf("1..%d", nimbus.MaxMemoryMiB),
		"github runners set installation": "1..",
	} {
		v := all[name]
		if v == nil {
			t.Errorf("there is no %s", name)
		} else if got := v.Tag.Get(flagrange.Tag); got != want {
			t.Errorf("%s allows %s, the server %s", name, got, want)
		}
	}
}

// TestNothingIsSentOfAWrongLine: the server hears nothing of what it would refuse.
func TestNothingIsSentOfAWrongLine(t *testing.T) {
	t.Parallel()
	var heard atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		heard.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()
	data := t.TempDir()
	save(t, filepath.Join(data, "admin.token"), "nbs_x")
	for line, says := range map[string]string{
		"run --memory 0 -- true":            "--memory is 0; allowed is 1 to 4194304",
		"run --cpu=-2 -- true":              "--cpu is -2; allowed is 1 to 512",
		"run --timeout 0s -- true":          "--timeout is 0s; allowed is 1s to 120h",
		"run --timeout=-1h -- true":         "--timeout is -1h0m0s; allowed is 1s to 120h",
		"run --queue-timeout 1000h -- true": "--queue-timeout is 1000h0m0s; allowed is 1s to 168h",
		"run --label cpu:none -- true":      "cpu:none",
		"run --meta BAD!=1 -- true":         "can't be kept as metadata",
		"run --env =1 -- true":              "can't be the name of an environment variable",
		"run --executor local --label gpu-count:2 --label arm64 --label x64 -- true": "only one architecture",
		"hosts token --valid-for=-1h":      "--valid-for is -1h0m0s; allowed is 1s to 24h",
		"hosts drain rack-7 --timeout=-1s": "--timeout is -1s; allowed is 1s or more",
		"weights set org acme 0":           "<percent> is 0; allowed is 1 to 10000",
		"jobs --limit 0":                   "--limit is 0; allowed is 1 to 100000",
	} {
		code, _, stderr := runIn(t, data, server.URL, strings.Fields(line))
		if code != ExitUsage || !strings.Contains(stderr, says) || !strings.Contains(stderr, "usage: nimbus "+strings.Fields(line)[0]) {
			t.Errorf("%s: exit code %d: %s", line, code, stderr)
		}
	}
	if n := heard.Load(); n > 0 {
		t.Errorf("the server was asked %d times", n)
	}
}

// runIn runs a command line against a server.
func runIn(t *testing.T, data, server string, line []string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = Main(t.Context(), "test", append([]string{"--server", server, "--data", data}, line...), Streams{Out: &out, Err: &err})
	return code, out.String(), err.String()
}

// TestWhoIsWrong: the one who typed, or what was to be done.
func TestWhoIsWrong(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	for line, want := range map[string]struct {
		code  int
		usage string // of the command, "" for no such line
		hint  string
	}{
		"bogus":                               {ExitUsage, "usage: nimbus <command>", "nimbus --help"},
		"hosts --bogus":                       {ExitUsage, "usage: nimbus hosts", "nimbus hosts"},
		"limits set --most 5":                 {ExitUsage, "usage: nimbus limits set --most=N <kind>", "nimbus limits set --help"},
		"keys rotate --stage --keep-old":      {ExitUsage, "usage: nimbus keys rotate", "nimbus keys rotate --help"},
		"up --tls-cert x.pem --no-agent":      {ExitUsage, "usage: nimbus up", "nimbus up --help"},
		"job job_none":                        {ExitFailure, "", ""},
		"hosts cordon nobody":                 {ExitFailure, "", "`nimbus hosts` lists them"},
		"limits set label windows --most 1":   {ExitFailure, "", "docs/labels.md"},
		"limits set repo octo/h*llo --most 1": {ExitFailure, "", "OWNER/NAME"},
	} {
		code, _, stderr := c.now(t, strings.Fields(line)...)
		if code != want.code || strings.Contains(stderr, "usage: ") != (want.usage != "") || !strings.Contains(stderr, want.usage) ||
			!strings.Contains(stderr, want.hint) || !strings.HasPrefix(stderr, "nimbus: ") {
			t.Errorf("%s: exit code %d: %s", line, code, stderr)
		}
	}
	code, _, stderr := c.now(t, "hosts", "--bogus", "--json")
	if code != ExitUsage || !strings.HasPrefix(stderr, `{"error":{"code":"invalid","message":`) || strings.Contains(stderr, "usage:") {
		t.Errorf("as JSON: exit code %d: %s", code, stderr)
	}
}

// TestAServerThatIsNotThere is told of in one sentence, with what to do.
func TestAServerThatIsNotThere(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	data := t.TempDir()
	save(t, filepath.Join(data, "admin.token"), "nbs_x")
	for _, line := range []string{"hosts", "logs job_x", "run --no-files -- true", "login"} {
		code, _, stderr := runIn(t, data, gone.URL, strings.Fields(line))
		told := strings.Split(strings.TrimSpace(stderr), "\n")
		if code != ExitUnreachable || len(told) != 2 || !strings.HasSuffix(told[0], "the server at "+gone.URL+" can't be reached: connection refused") ||
			!strings.HasPrefix(told[1], "hint: is it running") || !strings.Contains(told[1], "--server") {
			t.Errorf("%s: exit code %d: %s", line, code, stderr)
		}
	}
}
