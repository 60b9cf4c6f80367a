package systemd

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestSettingsComeBack: whatever a setting holds is read as it was written.
func TestSettingsComeBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringOf(rapid.RuneFrom([]rune("\"'\\$` =#;ab"), unicode.Letter, unicode.Digit))
		v := Variables(rapid.MapOf(rapid.StringMatching(`NIMBUS_[A-Z_]{1,12}`), value).Draw(t, "settings"))
		text, err := v.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(text)
		if err != nil || !maps.Equal(got, v) {
			t.Fatalf("%v\n%s\ngives %v", err, text, got)
		}
	})
	if _, err := (Variables{"NIMBUS_NAME": "a\nNIMBUS_SERVER=http://elsewhere"}).encode(); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a line break: %v", err)
	}
	got, err := decode([]byte("# by hand\n; too\n\nA=bare \nB='a \"b'\n"))
	if err != nil || !maps.Equal(got, Variables{"A": "bare", "B": `a "b`}) {
		t.Errorf("by hand: %v, %v", got, err)
	}
	if _, err := decode([]byte("A=1\nnonsense\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("nonsense: %v", err)
	}
}

// TestUnit: systemd takes the unit as it is written, and finds it as closed as
// we say.
func TestUnit(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "systemd-analyze")
	for name, c := range map[string]struct {
		executors []string
		exposure  string // at most, in tenths; 100 is a service without any fence
	}{
		"microvm": {[]string{nimbus.ExecutorMicroVM}, "67"},
		"local":   {[]string{nimbus.ExecutorLocal}, "55"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := unit(c.executors)
			if err != nil {
				t.Fatal(err)
			}
			// The program isn't there.
			text = bytes.ReplaceAll(text, []byte(Program), []byte("/bin/true"))
			path := filepath.Join(t.TempDir(), Service)
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"verify", "--man=no", path}, {"security", "--offline=true", "--no-pager", "--threshold=" + c.exposure, path}} {
				out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
				if err != nil || args[0] == "verify" && len(out) > 0 {
					t.Errorf("%s: %v\n%s", args[0], err, out)
				}
			}
			if got := bytes.Contains(text, []byte("User="+User)); got == Privileged(c.executors) {
				t.Errorf("a user of its own: %v", got)
			}
		})
	}
}

// TestUpgradeKeeps: what was set stays, what is given anew is taken, and what
// nothing changed is not written.
func TestUpgradeKeeps(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	program := filepath.Join(root, "built")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(program, []byte(text), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	install := func(a Agent) map[string]string {
		t.Helper()
		a.Root, a.Program = root, program
		files, err := a.Files()
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Write(files); err != nil {
			t.Fatal(err)
		}
		changes := map[string]string{}
		for _, f := range files {
			changes[f.Path] = f.Change
		}
		return changes
	}
	write("one")
	if _, err := (Agent{Root: root, Program: program}).Files(); nimbus.ErrorHint(err) == "" {
		t.Errorf("without a control plane: %v", err)
	}
	install(Agent{Variables: Variables{"NIMBUS_SERVER": "https://a", "NIMBUS_CPUS": "4"}, JoinToken: []byte("secret\n")})
	for path, mode := range map[string]os.FileMode{Settings: 0o600, JoinToken: 0o600, Program: 0o755, unitPath: 0o644} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}

	write("two, which is longer")
	changes := install(Agent{Variables: Variables{"NIMBUS_CPUS": "8"}})
	if want := map[string]string{Program: Changed, Settings: Changed, unitPath: Same, sysctlPath: Same, modulesPath: Same}; !maps.Equal(changes, want) {
		t.Errorf("changes are %v", changes)
	}
	settings, err := (Agent{Root: root}).Settings()
	if err != nil {
		t.Fatal(err)
	}
	want := Variables{"NIMBUS_SERVER": "https://a", "NIMBUS_CPUS": "8", "NIMBUS_EXECUTORS": nimbus.ExecutorMicroVM, "NIMBUS_DATA": Data, "NIMBUS_JOIN_TOKEN_FILE": JoinToken}
	if !maps.Equal(settings, want) {
		t.Errorf("settings are %v", settings)
	}
	if got, err := os.ReadFile(filepath.Join(root, Program)); err != nil || string(got) != "two, which is longer" {
		t.Errorf("the program is %q, %v", got, err)
	}
	if drafts, _ := filepath.Glob(filepath.Join(root, "usr/local/bin/.*")); len(drafts) > 0 {
		t.Errorf("drafts are left: %v", drafts)
	}

	if _, ok := install(Agent{NVML: program})[NVML]; ok {
		t.Error("what reads GPUs is installed where nobody asks for them")
	}
	if changes := install(Agent{NVML: program, Variables: Variables{"NIMBUS_EXECUTORS": "microvm,gpu"}}); changes[NVML] != Made {
		t.Errorf("what reads GPUs is not installed: %v", changes)
	}

	gone, err := Remove(t.Context(), root, false)
	if err != nil || !slices.Contains(gone, unitPath) || slices.Contains(gone, Settings) {
		t.Errorf("removed %v, %v", gone, err)
	}
	if settings, err = (Agent{Root: root}).Settings(); err != nil || settings["NIMBUS_JOIN_TOKEN_FILE"] != "" {
		t.Errorf("a token that is gone is asked for: %v, %v", settings, err)
	}
	if gone, err = Remove(t.Context(), root, true); err != nil || !slices.Contains(gone, Settings) {
		t.Errorf("purged %v, %v", gone, err)
	}
}

// TestCommandSaysWhy: what a command of the machine complained of is told.
func TestCommandSaysWhy(t *testing.T) {
	t.Parallel()
	_, err := command(t.Context(), "sh", "-c", "echo no such thing >&2; exit 3")
	if exit := new(exec.ExitError); !errors.As(err, &exit) || !strings.Contains(err.Error(), "no such thing") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := command(ctx, "sleep", "60"); err == nil {
		t.Error("it outlives its context")
	}
}
