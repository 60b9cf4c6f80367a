package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// startRunner starts a script as GitHub's runner, in the workspace.
func startRunner(t *testing.T, c *guestlink.Client, script string) {
	t.Helper()
	_, err := c.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{
		AttemptId: "att", Command: []string{"sh", "-c", script}, RunnerDiagnostics: []string{"/no/such/place/_diag", "_diag"},
	}))
	if err != nil {
		t.Fatal(err)
	}
}

// asRunner are shell functions that write as the official runner does.
const asRunner = `
step=00000000-0000-4000-8000-000000000001 job=00000000-0000-4000-8000-00000000000f
stamp() { date -u '+%Y-%m-%dT%H:%M:%S.%N' | cut -c1-27; }
trace() { echo "[$(date -u '+%Y-%m-%d %H:%M:%SZ') INFO $1] $2" >> _diag/Worker_20260101-000000-utc.log; }
page() { echo "_diag/pages/00000000-0000-4000-8000-0000000000ff_$1_1.log"; }
write() { for r in $step $job; do echo "$(stamp)Z $1" >> "$(page $r)"; done; }
trace JobRunner "Job ID $job"
`

// TestStepsWhileTheyRun: a line of a step is there while the step still runs,
// and the last ones when the runner has ended, whose page is gone by then.
func TestStepsWhileTheyRun(t *testing.T) {
	t.Parallel()
	socket, workspace := serveTest(t)
	c := dial(t, socket, testToken)
	startRunner(t, c, asRunner+`
echo "2026-01-01 00:00:00Z: Running job: Build"
write 'first of set up'
trace StepsRunner "Processing step: DisplayName='Compile'"
step=00000000-0000-4000-8000-000000000002
write 'while it runs'
printf 'half a'
while ! test -e go; do sleep 0.02; done
echo ' line'
write 'last words'
rm "$(page $step)" "$(page $job)"
`)
	var r result
	r.follow(t.Context(), t, c, func() bool { return strings.Contains(r.stdout.String(), "while it runs\n") })
	if r.exit != nil {
		t.Fatalf("it has ended:\n%s", &r.stdout)
	}
	if err := os.WriteFile(filepath.Join(workspace, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.follow(t.Context(), t, c, never)
	want := []string{"2026-01-01 00:00:00Z: Running job: Build", "::nimbus-step::Set up job", "first of set up", "::nimbus-step::Compile", "while it runs", "last words"}
	got := r.stdout.String()
	for _, line := range want {
		if strings.Count("\n"+got, "\n"+line+"\n") != 1 {
			t.Errorf("%q is not there once", line)
		}
	}
	if t.Failed() || !r.exit.GetRunner().GetHadJob() {
		t.Errorf("%v\n%s", r.exit, got)
	}
}

// TestRunnersEnd: what run.sh says about the listener's end is told, since its
// exit code is not.
func TestRunnersEnd(t *testing.T) {
	t.Parallel()
	code := func(n int32) *int32 { return &n }
	for name, tt := range map[string]struct {
		script string
		exit   int32
		job    bool
		code   *int32
	}{
		"nothing said":       {"echo hello", 0, false, nil},
		"ended":              {"echo 'Runner listener exit with 0 return code, stop the service, no retry needed.'", 0, false, code(0)},
		"terminated":         {"echo 'Runner listener exit with terminated error, stop the service, no retry needed.'", 0, false, code(1)},
		"relaunched":         {"echo 'Runner listener exit with retryable error, re-launch runner in 5 seconds.'; echo 'Runner listener exit with 0 return code, x'", 0, false, code(0)},
		"updating":           {"echo 'Runner listener exit because of updating, re-launch runner after successful update'", 0, false, code(3)},
		"session conflict":   {"echo 'Runner listener exit with Session Conflict error, stop the service, no retry needed.'", 0, false, code(5)},
		"refreshed":          {"echo 'Exiting with unknown error code: 6'", 0, false, code(6)},
		"deprecated":         {"echo 'Runner listener exit with deprecated version exit code: 7.'; exit 7", 7, false, code(7)},
		"in two pieces":      {"printf 'Runner listener exit with Sess'; sleep 0.05; echo 'ion Conflict error'", 0, false, code(5)},
		"with a job":         {"echo '2026-01-01 00:00:00Z: Running job: x'; echo 'Runner listener exit with 0 return code, x'", 0, true, code(0)},
		"a job by its log":   {asRunner, 0, true, nil},
		"a name, not a word": {"echo 'x: Running job: Runner listener exit with Session Conflict error'", 0, false, nil},
		"in the job's log":   {asRunner + "write 'Runner listener exit with Session Conflict error'", 0, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket, _ := serveTest(t)
			c := dial(t, socket, testToken)
			startRunner(t, c, tt.script)
			var r result
			r.follow(t.Context(), t, c, never)
			x := r.exit.GetRunner()
			same := cmp.Equal(tt.code, x.ListenerCode)
			if r.exit.GetCode() != tt.exit || x.GetHadJob() != tt.job || !same {
				t.Errorf("%v\n%s%s", r.exit, &r.stdout, &r.stderr)
			}
		})
	}
}

// TestTranscript: lines of one are never put into those of another.
func TestTranscript(t *testing.T) {
	t.Parallel()
	e := newEvents()
	lines := transcript{events: e}
	long := strings.Repeat("x", 2*outputChunk+1)
	for _, w := range []struct {
		who  int
		text string
	}{{byRunner, "half"}, {byJob, "whole\n"}, {byRunner, " of it\n"}, {byJob, long}, {byJob, "y\n"}, {byJob, ""}, {byRunner, "end"}} {
		lines.write(w.who, []byte(w.text))
	}
	var got strings.Builder
	for _, event := range e.list {
		if n := len(event.GetOutput().GetData()); n > outputChunk {
			t.Errorf("an event of %d bytes", n)
		}
		got.Write(event.GetOutput().GetData())
	}
	if want := "half\nwhole\n of it\n" + long + "y\nend"; got.String() != want {
		t.Errorf("%.60q, want %.60q", got.String(), want)
	}
}
