package docker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit/runnerkittest"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// carries tells why a sandbox can't take a job of GitHub's.
func carries(ctx context.Context, t *testing.T, s executor.Sandbox) error {
	t.Helper()
	c, ok := s.(executor.Carrier)
	if !ok {
		t.Fatal("it can't tell whether it takes GitHub's jobs")
	}
	return c.CarryRunner(ctx)
}

// TestGitHubsRunner has what stands for GitHub's runner, which is glibc's like
// that, take a job beside an image of musl's and beside one of glibc's: it and
// Node run by what they brought, steps by what the image has.
func TestGitHubsRunner(t *testing.T) {
	cfg, d := config(t)
	cfg.Runner = testenv.Program(t, "cmd/nimbus-runner")
	cfg.Built = runnerkittest.Image(t, "")
	runnerkittest.Musl(t, d, "nimbus.test/musl", "1")
	runnerkittest.Bare(t, d, "nimbus.test/bare", "1")
	if err := d.Image("nimbus.test/preload", "1", "ENV LD_PRELOAD=/lib/x.so"); err != nil {
		t.Fatal(err)
	}
	e := create(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	on := func(t *testing.T, name string) executor.Sandbox {
		sp := spec(t)
		sp.Class.Image = name
		return sandbox(ctx, t, e, sp)
	}
	const start = "export NIMBUS_RUNNER_IN_CONTAINER=1 ACTIONS_RUNNER_INPUT_JITCONFIG=bm90aGluZw==\n"
	for _, c := range []struct{ image, step, said string }{
		{"nimbus.test/musl:1", `tool; [ -e /lib64 ] || echo no glibc`, "a tool of musl\nno glibc\n"},
		{imageName, `cat --version | head -n 1 | cut -d " " -f 2`, "(GNU\n"},
	} {
		t.Run(c.image, func(t *testing.T) {
			s := on(t, c.image)
			if err := carries(ctx, t, s); err != nil {
				t.Fatal(err)
			}
			out, exit := executortest.Do(ctx, t, s, start+"export STEP='"+c.step+"'\nexec "+docker.Runner)
			want := "listener /opt/runner/bin/Runner.Listener [run] 0 1 bm90aGluZw==\nglibc true\n" +
				"node /opt/runner/externals/node20/bin/node 42 e3b0c442\n" + c.said +
				"2026-11-26 22:00:00Z: Running job: one\nRunner listener exit with 0 return code, stop the service, no retry needed.\n"
			if out != want || exit.GetCode() != 0 || exit.Code == nil {
				t.Errorf("got:\n%s\nwant:\n%s\n%v", out, want, exit)
			}
		})
	}
	t.Run("its end is told", func(t *testing.T) {
		out, exit := executortest.Do(ctx, t, on(t, imageName), start+"export LISTENER_CODE=7\nexec "+docker.Runner)
		if !strings.HasSuffix(out, "\nRunner listener exit with deprecated version exit code: 7.\n") || exit.GetCode() != 0 {
			t.Errorf("%s, %v", out, exit)
		}
	})
	for name, words := range map[string]string{"nimbus.test/bare:1": "no /bin/sh", "nimbus.test/preload:1": "LD_PRELOAD"} {
		err := carries(ctx, t, on(t, name))
		var image *executor.ImageError
		if !errors.As(err, &image) || !strings.Contains(err.Error(), words) || nimbus.ErrorHint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Run("one that nobody has is removed", func(t *testing.T) { testPrune(ctx, t, e, cfg) })
}

// testPrune sweeps where there is a runner of before, which a container has, and
// one that none has.
func testPrune(ctx context.Context, t *testing.T, e *docker.Executor, cfg docker.Config) {
	dir := filepath.Join(cfg.Dir, "runner")
	current, err := os.ReadDir(dir)
	if err != nil || len(current) != 1 {
		t.Fatal(current, err)
	}
	sp := spec(t)
	sp.Class.Image = imageName
	sandbox(ctx, t, e, sp)
	for _, name := range []string{"before", ".draft-1"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "glibc"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The image has none any more: the container still does.
	cfg.Built = image.Store{Dir: t.TempDir()}
	for range 2 {
		if _, err := create(t, cfg).Sweep(ctx, func() []string { return []string{sp.ID} }); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 || left[0].Name() != current[0].Name() {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// TestNoRunner has hosts on which GitHub's runner is not, or not whole.
func TestNoRunner(t *testing.T) {
	cfg, _ := config(t)
	cfg.Runner = testenv.Program(t, "cmd/nimbus-runner")
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	check := func(cfg docker.Config, words, hint string) {
		t.Helper()
		sp := spec(t)
		sp.Class.Image = imageName
		err := carries(ctx, t, sandbox(ctx, t, create(t, cfg), sp))
		var image *executor.ImageError
		if !errors.As(err, &image) || !strings.Contains(err.Error(), words) || !strings.Contains(nimbus.ErrorHint(err), hint) {
			t.Errorf("got %v (%s), want %q", err, nimbus.ErrorHint(err), words)
		}
	}
	check(cfg, "no image", "nimbus images build")
	cfg.Built = runnerkittest.Image(t, "libm.so.6")
	check(cfg, "node needs libm.so.6", "nimbus images build")
	if left, err := os.ReadDir(filepath.Join(cfg.Dir, "runner")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	cfg.StandIn = true
	sp := spec(t)
	sp.Class.Image = imageName
	if err := carries(ctx, t, sandbox(ctx, t, create(t, cfg), sp)); err != nil {
		t.Errorf("with a double of GitHub: %v", err)
	}
}
