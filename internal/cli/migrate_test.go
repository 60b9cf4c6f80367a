package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/migrate"
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
	moved := strings.Replace(before, "ubuntu-latest", `[nimbus, "cpu:2", "memory:8"]`, 1)
	if code, out, errs = run(project); code != ExitFailure || now() != moved || !strings.Contains(errs, "broken.yml:1") || !strings.Contains(out, "left alone") {
		t.Errorf("beside a broken file: %d %s%s", code, out, errs)
	}
	if code, _, errs = run(t.TempDir()); code == ExitOK || !strings.Contains(errs, "no workflow files") {
		t.Errorf("without files: %d %s", code, errs)
	}
}

// TestMigrateLeavesOddFilesAlone, says why, and moves the others.
func TestMigrateLeavesOddFilesAlone(t *testing.T) {
	t.Parallel()
	const workflow = "jobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [{run: ls}]\n"
	folder, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "shared.yml")
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(elsewhere, workflow, 0o600)
	write(filepath.Join(folder, "plain.yml"), workflow, 0o600)
	write(filepath.Join(folder, "fixed.yml"), workflow, 0o400)
	write(filepath.Join(folder, "binary.yml"), "\x7fELF\x00\x01\xff\xfe", 0o600)
	write(filepath.Join(folder, "huge.yaml"), workflow+strings.Repeat("#", migrate.MaxFile), 0o600)
	write(filepath.Join(folder, "two.yml"), workflow+"---\n"+workflow, 0o600)
	for name, target := range map[string]string{"link.yml": elsewhere, "dangling.yml": "nowhere.yml", "null.yml": "/dev/null"} {
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(folder, "folder.yml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(folder, "pipe.yml"), 0o600); err != nil {
		t.Fatal(err)
	}
	var o, e bytes.Buffer
	code := Main(t.Context(), "test", []string{"migrate", "workflows", folder}, Streams{Out: &o, Err: &e})
	out, errs := o.String(), e.String()
	if code != ExitFailure || !strings.Contains(errs, "1 jobs moved") {
		t.Errorf("it ends with %d: %s%s", code, out, errs)
	}
	for name, why := range map[string]string{
		"fixed.yml": "may not be written to", "binary.yml": "", "huge.yaml": "larger than", "two.yml": "one YAML document",
		"link.yml": "is a link", "dangling.yml": "is a link", "null.yml": "is a link", "pipe.yml": "is no file",
	} {
		if !regexp.MustCompile(`left alone: .*` + regexp.QuoteMeta(name) + `.*` + regexp.QuoteMeta(why)).MatchString(errs) {
			t.Errorf("%s is not said to be left alone since it %s:\n%s", name, why, errs)
		}
	}
	for path, want := range map[string]string{
		filepath.Join(folder, "plain.yml"): strings.Replace(workflow, "ubuntu-latest", `[nimbus, "cpu:2", "memory:8"]`, 1),
		filepath.Join(folder, "fixed.yml"): workflow, elsewhere: workflow,
	} {
		if text, err := os.ReadFile(path); err != nil || string(text) != want {
			t.Errorf("%s is %q (%v)", path, text, err)
		}
	}
}
