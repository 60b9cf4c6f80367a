package firecracker_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest"
	"github.com/nimbus-ci/nimbus/internal/shim"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// patience is how long a test waits for what happens at once.
const patience = time.Minute

// host is a driver and what its machines share.
type host struct {
	*firecracker.Driver

	t      *testing.T
	target firecrackertest.Target
	kernel string
}

func newHost(t *testing.T, target firecrackertest.Target) *host {
	t.Helper()
	testenv.Require(t, "root")
	dir := folder(t)
	h := &host{t: t, target: target, kernel: filepath.Join(dir, "vmlinux")}
	if err := os.WriteFile(h.kernel, firecracker.TrialKernel(firecracker.TrialTicking), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Driver = firecracker.New(firecracker.Config{
		Dir: dir, Firecracker: target.Firecracker, Jailer: target.Jailer, Shim: target.Shim, Trial: firecracker.TrialPlain,
	})
	caps, err := h.Probe(t.Context())
	if err != nil || !strings.HasPrefix(caps.Version, "Firecracker ") || !caps.Accelerated || !caps.Namespaces || caps.OverheadMiB == 0 {
		t.Fatalf("got %+v, %v", caps, err)
	}
	return h
}

// folder is one that a jail's user can get to, unlike that of t.TempDir.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nimbus-fc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// machine is a small one in a folder of its own.
func (h *host) machine() vmm.Machine {
	h.t.Helper()
	m := vmm.Machine{
		ID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Dir: filepath.Join(folder(h.t), "sandbox"),
		CPUs: 1, MemoryMiB: 16, Kernel: h.kernel, Parameters: "nimbus.test=1",
		Device:   &vmm.Device{Tap: firecrackertest.Tap(h.t), MAC: "02:fc:00:00:00:02", Rate: vmm.Rate{BytesPerSecond: 1 << 20}},
		Metadata: []byte(`{"a":1}`),
		Disks:    []vmm.Disk{{Path: h.kernel, ReadOnly: true}, {Rate: vmm.Rate{BytesPerSecond: 1 << 20}}},
	}
	if err := os.Mkdir(m.Dir, 0o711); err != nil {
		h.t.Fatal(err)
	}
	m.Disks[1].Path = filepath.Join(m.Dir, "disk.ext4")
	if err := os.WriteFile(m.Disks[1].Path, make([]byte, 4096), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return m
}

// start starts the machine's monitor below a shim.
func (h *host) start(ctx context.Context, m vmm.Machine) *shim.Client {
	h.t.Helper()
	args, err := h.Command(m)
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := shim.Start(ctx, h.target.Shim, m.Dir, shim.Spec{Args: args, Namespaces: true, Deadline: 5 * patience})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		end(h.t, c)
		if h.t.Failed() {
			h.t.Logf("%s: %s", m.ID, c.Output(2<<10))
		}
	})
	return c
}

// end kills a machine and waits until it is gone.
func end(t *testing.T, c *shim.Client) shim.Exit {
	t.Helper()
	if err := c.Kill(context.Background()); err != nil {
		t.Error(err)
	}
	exit, err := c.Wait(context.Background())
	if err != nil {
		t.Error(err)
	}
	return exit
}

// ticks waits until the guest shows that it runs.
func ticks(ctx context.Context, t *testing.T, c *shim.Client) {
	t.Helper()
	before := strings.Count(string(c.Output(1<<16)), ".")
	for strings.Count(string(c.Output(1<<16)), ".") <= before {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the guest does not run; it said: %s", c.Output(1<<10))
		}
	}
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	lifecycle(t, newHost(t, firecrackertest.Double(t)))
}

func TestLifecycleInstalled(t *testing.T) {
	t.Parallel()
	lifecycle(t, newHost(t, firecrackertest.Installed(t)))
}

// lifecycle boots a machine in its jail, saves it, and makes two others of it at
// once; the second one's pages are copied in ahead.
func lifecycle(t *testing.T, h *host) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	m := h.machine()
	c := h.start(ctx, m)
	if err := h.Boot(ctx, m); err != nil {
		t.Fatal(err)
	}
	ticks(ctx, t, c)
	checkJailed(ctx, t, c, m)
	if h.target.Guests {
		echo(ctx, t, h, m.Dir)
	}
	if err := h.Pause(ctx, m.Dir); err != nil {
		t.Fatal(err)
	}
	into := folder(t)
	snapshot, err := h.Snapshot(ctx, m.Dir, into)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Resume(ctx, m.Dir); err != nil { // it may go on
		t.Fatal(err)
	}
	ticks(ctx, t, c)
	if exit := end(t, c); exit.Cause != shim.CauseKilled {
		t.Errorf("got %+v", exit)
	}
	for _, path := range []string{snapshot.State, snapshot.Memory} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o444 || info.Size() == 0 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	for range 2 {
		clone := h.machine()
		clone.From = &snapshot
		c := h.start(ctx, clone)
		if err := h.Restore(ctx, clone); err != nil {
			t.Fatal(err)
		}
		if err := h.Resume(ctx, clone.Dir); err != nil {
			t.Fatal(err)
		}
		ticks(ctx, t, c)
		checkJailed(ctx, t, c, clone)
		if h.target.Guests {
			echo(ctx, t, h, clone.Dir)
			checkMemory(ctx, t, clone.Dir, snapshot.Memory)
		}
		defer end(t, c)
	}
}

// checkJailed looks at the monitor from outside: its user is its own, it has no
// privileges, and its root is the jail.
func checkJailed(ctx context.Context, t *testing.T, c *shim.Client, m vmm.Machine) {
	t.Helper()
	pid := monitorOf(ctx, t, c)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	root, err := firecracker.JailOf(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", root.UID), "CapEff:\t0000000000000000"} {
		if root.UID == 0 || !strings.Contains(string(status), want+"\n") {
			t.Errorf("the monitor lacks %q:\n%s", want, status)
		}
	}
	inside, err := os.Stat(fmt.Sprintf("/proc/%d/root/", pid))
	if err != nil {
		t.Fatal(err)
	}
	if jail, err := os.Stat(root.Path); err != nil || !os.SameFile(inside, jail) {
		t.Errorf("its root is %v, not the jail; %v", inside, err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/kernel", pid)); m.From == nil && err != nil {
		t.Error(err)
	}
	ours, _ := os.Readlink("/proc/self/ns/pid")
	if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || theirs == ours {
		t.Errorf("its process namespace is ours: %s, %v", theirs, err)
	}
}

// monitorOf finds the monitor, which may be below a page server.
func monitorOf(ctx context.Context, t *testing.T, c *shim.Client) int {
	t.Helper()
	pid, err := c.PID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		raw, _ := os.ReadFile(task)
		var child int
		if n, _ := fmt.Sscan(string(raw), &child); n == 1 {
			return child
		}
	}
	return pid
}

// echo talks with the guest.
func echo(ctx context.Context, t *testing.T, h *host, dir string) {
	t.Helper()
	conn, err := h.Dial(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := make([]byte, 5)
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "hello" {
		t.Errorf("it echoed %q, %v", answer, err)
	}
}

// checkMemory compares each page of the guest with the file.
func checkMemory(ctx context.Context, t *testing.T, dir, memory string) {
	t.Helper()
	conn, err := firecracker.DialPort(ctx, dir, 1025)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	for page := range len(want) / 4096 {
		if got := ask(t, conn, lines, "page %d", page); got != fmt.Sprintf("%x", sha256.Sum256(want[page*4096:(page+1)*4096])) {
			t.Fatalf("page %d has other content: %s", page, got)
		}
	}
}

// ask asks the guest about its memory.
func ask(t *testing.T, conn net.Conn, lines *bufio.Reader, format string, args ...any) string {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, format+"\n", args...)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
	return strings.TrimSpace(line)
}

// TestNobodyListens: the monitor hangs up, and that is an error at once.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	h := newHost(t, firecrackertest.Double(t))
	m := h.machine()
	h.start(t.Context(), m)
	if _, err := h.Dial(t.Context(), m.Dir); err == nil {
		t.Error("dialled a machine that has not been booted")
	}
	if err := h.Boot(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, err := firecracker.DialPort(t.Context(), m.Dir, 4711); err == nil || !strings.Contains(err.Error(), "nobody answers") {
		t.Errorf("got %v", err)
	}
}

// TestBrokenOut plays a monitor whose guest has taken it over: what it leaves in
// its jail must not lead the agent out of it.
func TestBrokenOut(t *testing.T) {
	t.Parallel()
	h := newHost(t, firecrackertest.Double(t))
	m := h.machine()
	if _, err := h.Command(m); err != nil {
		t.Fatal(err)
	}
	root, err := firecracker.JailOf(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(folder(t), "outside.sock")
	listener, err := net.Listen("unix", outside)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connected := make(chan struct{})
	go func() {
		if conn, err := listener.Accept(); err == nil {
			close(connected)
			conn.Close()
		}
	}()
	for _, name := range []string{"v.sock", "api.sock"} {
		if err := os.Symlink(outside, filepath.Join(root.Path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Dial(t.Context(), m.Dir); err == nil {
		t.Error("dialled")
	}
	if err := h.Pause(t.Context(), m.Dir); err == nil {
		t.Error("paused")
	}
	select {
	case <-connected:
		t.Error("the agent was led out of the jail")
	default:
	}
}

// TestForeignSnapshot: one that another release made is refused with the reason.
func TestForeignSnapshot(t *testing.T) {
	t.Parallel()
	h := newHost(t, firecrackertest.Double(t))
	m := h.machine()
	m.From = &vmm.Snapshot{Monitor: "Firecracker 0.1"}
	err := h.Restore(t.Context(), m)
	if nimbus.ErrorCode(err) != nimbus.CodeConflict || !strings.Contains(err.Error(), "0.1") || nimbus.ErrorHint(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestProbeTellsWhatIsMissing(t *testing.T) {
	t.Parallel()
	target := firecrackertest.Double(t)
	for name, cfg := range map[string]firecracker.Config{
		"firecracker is not installed": {Firecracker: "/nowhere", Jailer: target.Jailer},
		"jailer is not installed":      {Firecracker: target.Firecracker, Jailer: "/nowhere"},
		"firecracker does not start":   {Firecracker: "/bin/false", Jailer: target.Jailer},
	} {
		_, err := firecracker.New(cfg).Probe(t.Context())
		if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || nimbus.ErrorHint(err) == "" || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	d := firecracker.New(firecracker.Config{})
	if _, err := d.Command(vmm.Machine{}); err == nil || errors.Is(err, context.Canceled) {
		t.Error("a command line before anything was probed")
	}
}

// TestPageServerIsKilled: nobody would serve the machine's faults, so it ends.
func TestPageServerIsKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t, firecrackertest.Double(t))
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	m := h.machine()
	c := h.start(ctx, m)
	if err := errors.Join(h.Boot(ctx, m), h.Pause(ctx, m.Dir)); err != nil {
		t.Fatal(err)
	}
	snapshot, err := h.Snapshot(ctx, m.Dir, folder(t))
	if err != nil {
		t.Fatal(err)
	}
	end(t, c)
	clone := h.machine()
	clone.From = &snapshot
	c = h.start(ctx, clone)
	if err := h.Restore(ctx, clone); err != nil {
		t.Fatal(err)
	}
	server, err := c.PID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	monitor := monitorOf(ctx, t, c)
	if monitor == server {
		t.Fatal("there is no page server")
	}
	if err := unix.Kill(server, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Cause != shim.CauseSelf || exit.Signal != "SIGKILL" {
		t.Errorf("got %+v, %v", exit, err)
	}
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", monitor)); err == nil && len(raw) > 0 {
		t.Errorf("the monitor goes on: %q", raw)
	}
}
