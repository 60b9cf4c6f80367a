package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMigrateWorkflows(t *testing.T) {
	t.Parallel()
	project := t.TempDir()
	folder := filepath.Join(project, ".github", "workflows")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "ci.yml")
	const before = "jobs:\n  a: # one\n    runs-on: ubuntu-latest\n    steps: [{run: ls}]\n  b:\n    runs-on: windows-latest\n    steps: [{run: dir}]\n"
	if err := os.WriteFile(path, []byte(before), 0o640); err != nil { //nolint:gosec // its mode is to be kept
		t.Fatal(err)
	}
	run := func(args ...string) (code int, out, errs string) {
		var o, e bytes.Buffer
		code = Main(t.Context(), "test", append([]string{"migrate", "workflows"}, args...), Streams{Out: &o, Err: &e})
		return code, o.String(), e.String()
	}
	now := func() string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	code, out, errs := run("--dry-run", project)
	if code != ExitOK || now() != before || !strings.Contains(out, "+    runs-on: [nimbus,") || !strings.Contains(errs, "1 jobs would move, 1 stay") {
		t.Errorf("dry run: %d\n%s%s", code, out, errs)
	}
	code, out, errs = run("--json", "--cpu", "4", folder)
	type job struct {
		Verdict string `json:"verdict"`
	}
	type file struct {
		Jobs []job `json:"jobs"`
	}
	var m struct {
		Written bool   `json:"written"`
		Files   []file `json:"files"`
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil || code != ExitOK || !m.Written || len(m.Files) != 1 || m.Files[0].Jobs[1].Verdict != "stays" {
		t.Errorf("it tells %d %v\n%s%s", code, err, out, errs)
	}
	if want := strings.Replace(before, "ubuntu-latest", `[nimbus, "cpu:4", "memory:8"]`, 1); now() != want {
		t.Errorf("the file is\n%s", now())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("its mode: %v %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}

	if err := os.WriteFile(filepath.Join(folder, "broken.yml"), []byte("jobs: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs = run(project); code == ExitOK || now() != before || !strings.Contains(errs, "broken.yml:1") {
		t.Errorf("with a broken file: %d %s", code, errs)
	}
	if code, _, errs = run(t.TempDir()); code == ExitOK || !strings.Contains(errs, "no workflow files") {
		t.Errorf("without files: %d %s", code, errs)
	}
}
