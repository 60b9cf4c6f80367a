// Package executortest is the suite that every executor passes: what a job may
// rely on is the same in all of them.
package executortest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// Config is what the suite needs to know of an executor.
type Config struct {
	// New returns the executor as a fresh process of the agent would have it:
	// one that it returns later must find the sandboxes of one before.
	New func(t *testing.T) executor.Executor
	// Settings are what Main makes the same executor of, in another process. They
	// are encoded as JSON.
	Settings any
	// Patience bounds one case: an emulated machine boots slowly.
	Patience time.Duration
	// Without are cases that can't be tried with what stands in for an executor
	// here, and why. The table says so.
	Without map[string]string
}

// Run runs the suite, and leaves what became of each case for Table.
func Run(t *testing.T, cfg Config) {
	name := cfg.New(t).Name()
	var results []result
	cases := []struct {
		name string
		run  func(context.Context, *testing.T, *harness)
	}{
		{"a job succeeds", testSuccess},
		{"exit codes and signals are told", testExits},
		{"standard input is closed", testInput},
		{"output is huge and binary", testOutput},
		{"environment and working directory", testEnvironment},
		{"files come in and artifacts out", testFiles},
		{"two sandboxes at once are apart", testTwo},
		{"a job is told to end, and ended", testTimeout},
		{"creation is given up", testGiveUp},
		{"cancelled in each phase", testCancel},
		{"kill ends it", testKill},
		{"its guest is killed", testGuestKilled},
		{"want of memory is told", testMemory},
		{"a new agent adopts", testAdopt},
		{"the agent is stopped, and killed", testAgentEnds},
		{"its agent is killed while it makes it", testKilledMaking},
		{"the deadline ends it", testDeadline},
		{"its use is measured", testMeasured},
		{"an unknown image is not found", testUnknownImage},
		{"sweep removes only what isn't kept", testSweep},
		{"nothing is left of one that is destroyed", testDestroy},
	}
	for _, c := range cases {
		if why, ok := cfg.Without[c.name]; ok {
			t.Logf("%s: not tried: %s", c.name, why)
			results = append(results, result{Case: c.name, Without: why})
			continue
		}
		ok := t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), cfg.Patience)
			defer cancel()
			c.run(ctx, t, &harness{cfg: cfg, executor: cfg.New(t)})
		})
		results = append(results, result{Case: c.name, OK: ok})
	}
	keepResults(t, name, results)
}

// harness makes sandboxes for one case and destroys them.
type harness struct {
	cfg      Config
	executor executor.Executor
}

func (h *harness) spec(t *testing.T) executor.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "nimbus-sandbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return executor.Spec{
		ID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Dir: dir, Deadline: h.cfg.Patience,
		Class: nimbus.Class{Executor: h.executor.Name(), Image: nimbus.DefaultImage, CPUs: 1, MemoryMiB: 512, Network: nimbus.NetworkNone},
	}
}

func (h *harness) create(ctx context.Context, t *testing.T) (executor.Sandbox, executor.Spec) {
	t.Helper()
	spec := h.spec(t)
	s, err := h.executor.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	return s, spec
}

// client dials a sandbox and prepares it.
func client(ctx context.Context, t testing.TB, s executor.Sandbox) *guestlink.Client {
	t.Helper()
	conn, err := s.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := guestlink.NewClient(conn, s.Token())
	t.Cleanup(func() { c.Close() })
	_, err = c.Prepare(ctx, connect.NewRequest(&nimbusv1.PrepareRequest{
		Now: timestamppb.Now(), Entropy: make([]byte, 64), Hostname: "sandbox", MachineId: "0123456789abcdef0123456789abcdef", Network: s.Network(),
	}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func start(ctx context.Context, t testing.TB, c *guestlink.Client, script string, env map[string]string) {
	t.Helper()
	_, err := c.Start(ctx, connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: []string{"sh", "-c", script}, Env: env}))
	if err != nil {
		t.Fatal(err)
	}
}

// follow reads events from one on, to the exit or until the output contains until.
func follow(ctx context.Context, t testing.TB, c *guestlink.Client, from int64, until string) (out string, exit *nimbusv1.Exited, last int64) {
	t.Helper()
	stream, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: from}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var buf bytes.Buffer
	for stream.Receive() {
		last = stream.Msg().GetSeq()
		buf.Write(stream.Msg().GetOutput().GetData())
		if exit := stream.Msg().GetExited(); exit != nil {
			return buf.String(), exit, last
		}
		if until != "" && bytes.Contains(buf.Bytes(), []byte(until)) {
			return buf.String(), nil, last
		}
	}
	t.Fatalf("the stream ended: %v; so far: %q", stream.Err(), buf.String())
	return "", nil, 0
}

func testSuccess(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	c := client(ctx, t, s)
	start(ctx, t, c, "echo hello; i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done", nil)
	out, exit, _ := follow(ctx, t, c, 1, "")
	if exit.GetCode() != 0 || exit.Code == nil || !strings.HasPrefix(out, "hello\n") || !strings.HasSuffix(out, "line 299\n") {
		t.Errorf("exit %v, output of %d bytes", exit, len(out))
	}
}

func testExits(ctx context.Context, t *testing.T, h *harness) {
	for script, want := range map[string]func(*nimbusv1.Exited) bool{
		"exit 3":           func(x *nimbusv1.Exited) bool { return x.GetCode() == 3 },
		"kill -SEGV $$":    func(x *nimbusv1.Exited) bool { return x.Code == nil && x.GetSignal() == "SIGSEGV" },
		"exec no-such-cmd": func(x *nimbusv1.Exited) bool { return x.GetCode() == 127 },
	} {
		s, _ := h.create(ctx, t)
		c := client(ctx, t, s)
		start(ctx, t, c, script, nil)
		if _, exit, _ := follow(ctx, t, c, 1, ""); !want(exit) {
			t.Errorf("%s: %v", script, exit)
		}
		if err := s.Destroy(ctx); err != nil {
			t.Error(err)
		}
	}
}

func testEnvironment(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	c := client(ctx, t, s)
	start(ctx, t, c, `echo "$GREETING $NIMBUS"; touch here && ls`, map[string]string{"GREETING": "good day"})
	out, exit, _ := follow(ctx, t, c, 1, "")
	if exit.GetCode() != 0 || out != "good day 1\nhere\n" {
		t.Errorf("exit %v, output %q", exit, out)
	}
}

func testTwo(ctx context.Context, t *testing.T, h *harness) {
	a, _ := h.create(ctx, t)
	b, _ := h.create(ctx, t)
	ca, cb := client(ctx, t, a), client(ctx, t, b)
	start(ctx, t, ca, "touch mine; echo ready; sleep 1000", nil)
	follow(ctx, t, ca, 1, "ready")
	start(ctx, t, cb, "ls; pgrep -x sleep || true", nil)
	if out, _, _ := follow(ctx, t, cb, 1, ""); out != "" {
		t.Errorf("one sandbox sees of the other: %q", out)
	}
}

func testAdopt(ctx context.Context, t *testing.T, h *harness) {
	s, spec := h.create(ctx, t)
	c := client(ctx, t, s)
	start(ctx, t, c, "echo before; sleep 1; echo after; exit 5", nil)
	_, _, last := follow(ctx, t, c, 1, "before")
	c.Close()

	again, err := h.cfg.New(t).Adopt(ctx, spec.ID, spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Renew(ctx, h.cfg.Patience); err != nil {
		t.Fatal(err)
	}
	out, exit, _ := follow(ctx, t, client(ctx, t, again), last+1, "")
	if out != "after\n" || exit.GetCode() != 5 {
		t.Errorf("after adoption: exit %v, output %q", exit, out)
	}
	if err := again.Destroy(ctx); err != nil {
		t.Error(err)
	}
	// What is gone can be waited for and destroyed once more.
	gone, err := h.cfg.New(t).Adopt(ctx, spec.ID, spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := gone.Wait(ctx); err != nil || exit.Cause != executor.ExitKilled {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if err := gone.Destroy(ctx); err != nil {
		t.Error(err)
	}
	if _, err := h.executor.Adopt(ctx, spec.ID, filepath.Join(spec.Dir, "none")); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("adopt of nothing: %v", err)
	}
}

func testKill(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	c := client(ctx, t, s)
	start(ctx, t, c, "trap '' TERM INT; setsid sleep 1000 & echo ready; wait", nil)
	follow(ctx, t, c, 1, "ready")
	for range 2 {
		if err := s.Kill(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitKilled {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func testDeadline(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	if err := s.Renew(ctx, 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitDeadline {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// testMeasured has a job burn CPU, hold memory and write to its disk, and reads
// that from outside, also once the sandbox has ended.
func testMeasured(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	metered, ok := s.(executor.Metered)
	if !ok {
		t.Fatal("the sandbox can't be measured")
	}
	c := client(ctx, t, s)
	before, err := metered.Usage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start(ctx, t, c, `dd if=/dev/zero of=f bs=1M count=48 conv=fsync 2>/dev/null
a=x; while [ ${#a} -lt 50000000 ]; do a=$a$a; done
i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo burnt; while :; do sleep 1; done`, nil)
	if out, _, _ := follow(ctx, t, c, 1, "burnt"); !strings.Contains(out, "burnt") {
		t.Fatalf("output %q", out)
	}
	after, err := metered.Usage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	used := after.Since(before)
	if used.CPU < 50*time.Millisecond || used.MemoryBytes < 40<<20 || used.WrittenBytes < 40<<20 {
		t.Errorf("it used %+v", used)
	}
	if err := s.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if end, err := metered.Usage(ctx); err != nil || end.CPU < after.CPU {
		t.Errorf("once it has ended: %+v, %v; before %+v", end, err, after)
	}
}

func testUnknownImage(ctx context.Context, t *testing.T, h *harness) {
	spec := h.spec(t)
	spec.Class.Image = "no-such-image"
	if _, err := h.executor.Create(ctx, spec); nimbus.ErrorCode(err) != nimbus.CodeNotFound || nimbus.ErrorHint(err) == "" {
		t.Errorf("got %v", err)
	}
}

func testGiveUp(ctx context.Context, t *testing.T, h *harness) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	spec := h.spec(t)
	if _, err := h.executor.Create(ctx, spec); err == nil {
		t.Fatal("created although given up")
	}
	if removed, err := h.executor.Sweep(context.Background(), keeping()); err != nil || len(removed) > 0 {
		t.Errorf("left behind: %v, %v", removed, err)
	}
}

func testSweep(ctx context.Context, t *testing.T, h *harness) {
	kept, keptSpec := h.create(ctx, t)
	orphan, _ := h.create(ctx, t)
	var late executor.Sandbox
	_, err := h.executor.Sweep(ctx, func() []string {
		late, _ = h.create(ctx, t) // as a job that comes while it sweeps
		return []string{keptSpec.ID}
	})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := orphan.Wait(ctx); err != nil {
		t.Errorf("the orphan: %+v, %v", exit, err)
	}
	for name, s := range map[string]executor.Sandbox{"kept": kept, "late": late} {
		c := client(ctx, t, s)
		start(ctx, t, c, "echo alive", nil)
		if out, _, _ := follow(ctx, t, c, 1, ""); out != "alive\n" {
			t.Errorf("the %s one: %q", name, out)
		}
	}
}

// keeping is what a sweep leaves.
func keeping(ids ...string) func() []string { return func() []string { return ids } }
