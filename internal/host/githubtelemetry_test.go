package host_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestTelemetryOfAGitHubJob: the steps of a job of GitHub's find the receiver by the
// environment of their runner, and what one of them sends is in the job's trace,
// below its run, without what it had hidden, which their runner tells nobody. A step that
// says where it sends itself is left alone.
func TestTelemetryOfAGitHubJob(t *testing.T) {
	testenv.Require(t, "root")
	t.Parallel()
	otlpjob := filepath.Join(t.TempDir(), "otlpjob")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", otlpjob, "../../test/e2e/testdata/otlpjob")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build what a step runs: %v\n%s", err, out)
	}
	p, dir := startPlane(t, githubtest.Config{}), t.TempDir()
	startHost(t, p, dir)
	p.push(t, fstest.MapFS{".github/workflows/ci.yml": &fstest.MapFile{Data: fmt.Appendf(nil, `
on: push
jobs:
  work:
    runs-on: [nimbus, local]
    steps:
      - name: What it finds
        run: env | sort | grep -E "^(OTEL_|TRACEPARENT=|PROMPTFOO_|NIMBUS_MASK_URL=)"
      - name: Sends
        run: %s
      - name: Sends elsewhere
        env:
          OTEL_EXPORTER_OTLP_ENDPOINT: http://elsewhere.example
        run: echo "own=$OTEL_EXPORTER_OTLP_ENDPOINT."
`, otlpjob)}})
	j := p.await(t, p.onlyJob(t).ID, "finished", over)
	if j.Result != nimbus.ResultSuccess {
		t.Fatalf("ended with %s, %+v\n%s", j.Result, j.Reason, p.log(t, j))
	}
	log := p.log(t, j)
	for _, want := range []string{
		`OTEL_EXPORTER_OTLP_ENDPOINT=(http://127\.0\.0\.1:\d+)`, `OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf`, `PROMPTFOO_OTEL_ENDPOINT=http://127\.0\.0\.1:\d+/v1/traces`,
		`OTEL_RESOURCE_ATTRIBUTES=\S*nimbus\.job\.id=` + j.ID + `,nimbus\.attempt\.id=` + j.AttemptID + `\S*`, `OTEL_SERVICE_NAME=work`,
		`TRACEPARENT=` + nimbus.TraceParent(j.ID), `own=http://elsewhere\.example\.`,
		`NIMBUS_MASK_URL=http://127\.0\.0\.1:\d+/mask`, `mask 204`,
	} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(log) {
			t.Errorf("no step says %s:\n%s", want, log)
		}
	}
	got, err := p.traces.Trace(t.Context(), nimbus.DefaultOrgID, j.ID, 0)
	must(t, err)
	run := slices.IndexFunc(got.Spans, func(s nimbus.Span) bool { return s.Lifecycle && s.Name == nimbus.RunSpan })
	work := slices.IndexFunc(got.Spans, func(s nimbus.Span) bool { return s.Name == "work" && !s.Lifecycle })
	if run < 0 || work < 0 || got.Sent != 1 {
		t.Fatalf("%d spans were sent: %+v", got.Sent, got.Spans)
	}
	if s := got.Spans[work]; s.TraceID != got.ID || s.ParentID != got.Spans[run].SpanID || s.AttemptID != j.AttemptID || s.Service != "work" || s.Attributes["n"] != "7" || s.Attributes["told"] != "it is ***" {
		t.Errorf("what a step sent is %+v, in trace %s below %s", s, got.ID, got.Spans[run].SpanID)
	}
	// What the host does not know, the control plane says of the whole life.
	if life := got.Spans[0]; !life.Lifecycle || life.Attributes["vcs.repository.name"] != "acme/hello" || life.Attributes["vcs.ref.head.revision"] == "" {
		t.Errorf("the job's life is %+v", life)
	}
	p.violations(t)
	empty(t, dir)
}
