package main

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	image "github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestWhoTakesTheJob starts the program in an image's root, with and without
// GitHub's runner in it.
func TestWhoTakesTheJob(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	root := t.TempDir()
	build(t, ".", filepath.Join(root, image.Program))
	double := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(double.Close)
	doubles, err := protocol.Config{RunnerID: 1, RunnerName: "r", ServerURL: double.URL, Token: "t"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const githubs = "bm90aGluZw=="

	if out, code := run(t, root, githubs); code != 78 || !strings.Contains(out, "just-in-time configuration") {
		t.Errorf("GitHub's configuration, the stand-in alone: %d %s", code, out)
	}

	build(t, "./testdata/official", filepath.Join(root, image.Official))
	inside := filepath.Join(root, image.Inside)
	if err := os.WriteFile(inside, []byte("official 1.2.3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := run(t, root, githubs); code != 7 || out != "1001 1001 [1001] /opt/runner /home/runner yes 1 "+githubs+" []\n" {
		t.Errorf("GitHub's configuration, GitHub's runner: %d %s", code, out)
	}
	// So that it may use the image's docker daemon.
	group := filepath.Join(root, "etc", "group")
	if err := os.MkdirAll(filepath.Dir(group), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(group, []byte("root:x:0:\nother:x:5:runners\nodd:x:x:runner\nshort:x:7\ndocker:x:999:somebody,runner\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := run(t, root, githubs); code != 7 || !strings.HasPrefix(out, "1001 1001 [999 1001] ") {
		t.Errorf("with a group: %d %s", code, out)
	}
	if out, code := run(t, root, doubles); code != 69 {
		t.Errorf("the double's configuration, GitHub's runner: %s", out)
	}

	// Beside somebody else's image there is no run.sh, and no user but root. The
	// listener's 7 is told in words.
	if err := os.Remove(filepath.Join(root, image.Official)); err != nil {
		t.Fatal(err)
	}
	build(t, "./testdata/official", filepath.Join(root, image.Listener))
	out, code := run(t, root, githubs, image.InContainer+"=1")
	if code != 0 || !strings.HasPrefix(out, "0 0 ") || !strings.HasSuffix(out, " /opt/runner /root yes 1 "+githubs+" [run]\nRunner listener exit with deprecated version exit code: 7.\n") {
		t.Errorf("GitHub's configuration, in a container: %d %s", code, out)
	}
	if out, code := run(t, root, doubles, image.InContainer+"=1"); code != 69 {
		t.Errorf("the double's configuration, in a container: %s", out)
	}

	// A machine that is no image of ours may have anything in that place.
	if err := os.WriteFile(inside, []byte("stand-in\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := run(t, root, githubs); code != 78 {
		t.Errorf("another's program in that place: %d %s", code, out)
	}
}

// TestListenerWords: they are what the guest listens for, and one code alone has
// the listener start again.
func TestListenerWords(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]string{
		0: "Runner listener exit with 0 return code", 1: "Runner listener exit with terminated error", 2: "Runner listener exit with retryable error",
		3: "Runner listener exit because of updating", 4: "Runner listener exit because of updating", 5: "Runner listener exit with Session Conflict error",
		6: "Exiting with unknown error code: 6", 7: "Runner listener exit with deprecated version exit code: 7.",
	} {
		if words, again := listenerWords(code); !strings.HasPrefix(words, want) || again != (code == 2) {
			t.Errorf("%d: %q, again %v", code, words, again)
		}
	}
}

func build(t *testing.T, pkg, dst string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dst, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func run(t *testing.T, root, jit string, env ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), image.Program)
	cmd.Dir = "/"
	cmd.Env = append([]string{"HOME=/root", "KEPT=yes", protocol.EnvJITConfig + "=" + jit}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
