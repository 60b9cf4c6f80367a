package microvm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

const patience = 4 * time.Minute

func create(ctx context.Context, t *testing.T, e *microvm.Executor) executor.Sandbox {
	t.Helper()
	s, err := e.Create(ctx, spec(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func spec(t *testing.T) executor.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "nimbus-sandbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return executor.Spec{
		ID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Dir: dir, Deadline: patience,
		Class: nimbus.Class{Executor: nimbus.ExecutorMicroVM, Image: nimbus.DefaultImage, CPUs: 1, MemoryMiB: 384, Network: nimbus.NetworkNone},
	}
}

// run runs a script in a sandbox to its end.
func run(ctx context.Context, t *testing.T, s executor.Sandbox, script string) (string, *nimbusv1.Exited) {
	t.Helper()
	return runWith(ctx, t, s, "sandbox", "", script)
}

// runWith runs a script in a sandbox that is told its name, with a program in
// its workspace.
func runWith(ctx context.Context, t *testing.T, s executor.Sandbox, name, program, script string) (string, *nimbusv1.Exited) {
	t.Helper()
	var files []string
	if program != "" {
		files = append(files, program)
	}
	return runCommand(ctx, t, s, name, files, "bash", "-c", script)
}

// runCommand runs a command with files in its workspace.
func runCommand(ctx context.Context, t *testing.T, s executor.Sandbox, name string, files []string, command ...string) (string, *nimbusv1.Exited) {
	t.Helper()
	return begin(ctx, t, s, name, files, command...).end()
}

// job is one that runs in a sandbox.
type job struct {
	t      *testing.T
	client *guestlink.Client
	stream *connect.ServerStreamForClient[nimbusv1.WatchResponse]
	out    bytes.Buffer
	exit   *nimbusv1.Exited
}

// begin starts a command with files in its workspace.
func begin(ctx context.Context, t *testing.T, s executor.Sandbox, name string, files []string, command ...string) *job {
	t.Helper()
	conn, err := s.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	j := &job{t: t, client: guestlink.NewClient(conn, s.Token())}
	entropy, id := make([]byte, 64), make([]byte, 16)
	rand.Read(entropy)
	rand.Read(id)
	_, err = j.client.Prepare(ctx, connect.NewRequest(&nimbusv1.PrepareRequest{
		Now: timestamppb.Now(), Entropy: entropy, Hostname: "nimbus-" + name, MachineId: hex.EncodeToString(id), Network: s.Network(),
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		putProgram(ctx, t, j.client, file)
	}
	if _, err := j.client.Start(ctx, connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: command})); err != nil {
		t.Fatal(err)
	}
	if j.stream, err = j.client.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1})); err != nil {
		t.Fatal(err)
	}
	return j
}

// until reads what the job writes, up to these words.
func (j *job) until(words string) string {
	j.t.Helper()
	for !strings.Contains(j.out.String(), words) {
		if !j.read() {
			j.t.Fatalf("the job did not say %q: %q, %v", words, &j.out, j.exit)
		}
	}
	return j.out.String()
}

func (j *job) read() bool {
	if j.exit != nil || !j.stream.Receive() {
		return false
	}
	j.out.Write(j.stream.Msg().GetOutput().GetData())
	j.exit = j.stream.Msg().GetExited()
	return j.exit == nil
}

// end is all that the job wrote, and how it ended.
func (j *job) end() (string, *nimbusv1.Exited) {
	for j.read() {
	}
	if err := j.stream.Err(); err != nil { // some tests end the machine themselves
		j.t.Logf("the job's events ended before its exit: %v", err)
	}
	j.stream.Close()
	j.client.Close()
	return j.out.String(), j.exit
}

// putProgram puts a file into the workspace.
func putProgram(ctx context.Context, t *testing.T, c *guestlink.Client, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(z)
	header := &tar.Header{Name: filepath.Base(path), Mode: 0o755, Size: int64(len(raw)), Typeflag: tar.TypeReg}
	if err := archive.WriteHeader(header); err != nil {
		t.Fatal(err)
	}
	_, err = archive.Write(raw)
	if err := errors.Join(err, archive.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	stream := c.PutWorkspace(ctx)
	for chunk := range slices.Chunk(packed.Bytes(), 32<<10) {
		if err := stream.Send(&nimbusv1.PutWorkspaceRequest{Chunk: chunk}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndReceive(); err != nil {
		t.Fatal(err)
	}
}

// failing is a driver whose first machines do something else than boot.
type failing struct {
	vmm.Driver

	times  atomic.Int32
	script string
}

func (f *failing) Command(m vmm.Machine) ([]string, error) {
	if f.times.Add(-1) >= 0 {
		return []string{"/bin/sh", "-c", f.script}, nil
	}
	return f.Driver.Command(m)
}

func TestBootIsTriedOnceMore(t *testing.T) {
	cfg := config(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	driver := &failing{Driver: qemu.New(), script: "echo broken; exit 7"}
	cfg.Driver = driver
	driver.times.Store(1)
	s := create(ctx, t, microvm.New(cfg))
	if out, exit := run(ctx, t, s, "echo alive"); out != "alive\n" || exit.GetCode() != 0 {
		t.Errorf("%q, %v", out, exit)
	}

	driver.times.Store(2)
	driver.script = "echo hangs; exec sleep 1000"
	cfg.BootTimeout = 3 * time.Second // in which a busy machine starts a shell
	e := microvm.New(cfg)
	_, err := e.Create(ctx, spec(t))
	if err == nil || !strings.Contains(err.Error(), "did not answer in time") || !strings.Contains(err.Error(), "hangs") {
		t.Errorf("got %v", err)
	}
	if removed, err := e.Sweep(ctx, keeping()); err != nil || len(removed) != 1 { // the first one, still alive
		t.Errorf("left behind: %v, %v", removed, err)
	}
}

// TestHostileJobs lets jobs do their worst: each is held to its own machine.
func TestHostileJobs(t *testing.T) {
	cfg := config(t)
	cfg.DiskMiB = 64
	cfg.Relays = []netslot.Relay{{Port: 9000, Target: serve(t)}}
	e := microvm.New(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()

	t.Run("fills its disk", func(t *testing.T) {
		s := create(ctx, t, e)
		out, exit := run(ctx, t, s, "exec 2>&1; head -c 200M /dev/zero > big; echo $?; rm big; echo room > small && cat small")
		if !strings.Contains(out, "No space left") || !strings.HasSuffix(out, "1\nroom\n") || exit.GetDiskFull() {
			t.Errorf("%q, %v", out, exit)
		}
	})
	t.Run("ends for want of room", func(t *testing.T) {
		s := create(ctx, t, e)
		out, exit := run(ctx, t, s, "exec head -c 200M /dev/zero > big")
		if exit.GetCode() == 0 || !exit.GetDiskFull() {
			t.Errorf("%q, %v", out, exit)
		}
	})
	t.Run("reaches the relay and nothing else", func(t *testing.T) {
		s := create(ctx, t, e)
		out, exit := run(ctx, t, s, `
			cat < /dev/tcp/gateway.nimbus.internal/9000
			for a in 172.16.0.1/22 10.0.0.1/80 169.254.169.254/80 1.1.1.1/53; do
				timeout 3 bash -c "echo > /dev/tcp/$a" 2>/dev/null && echo "reached $a"
			done
			exit 0`)
		if out != "relayed\n" || exit.GetCode() != 0 {
			t.Errorf("%q, %v", out, exit)
		}
	})
	t.Run("restarts its machine", func(t *testing.T) {
		s := create(ctx, t, e)
		out, _ := run(ctx, t, s, "echo b > /proc/sysrq-trigger; sleep 100")
		if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitSelf {
			t.Errorf("%q, %+v, %v", out, exit, err)
		}
	})
	t.Run("eats its memory", func(t *testing.T) {
		s := create(ctx, t, e)
		out, exit := run(ctx, t, s, "exec dd if=/dev/zero of=/dev/null bs=330M count=1")
		if exit == nil || !exit.GetOutOfMemory() {
			t.Errorf("%q, %v", out, exit)
		}
	})
}

// TestMonitorIsKilled ends QEMU from outside, as the kernel would when the host
// has no memory left.
func TestMonitorIsKilled(t *testing.T) {
	cfg := config(t)
	e := microvm.New(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sp := spec(t)
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range processesIn(t, sp.Dir) {
		if strings.HasPrefix(pid.name, "qemu-system") {
			checkPowerless(t, pid.process.Pid)
			if err := pid.process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitSelf || exit.Signal != "SIGKILL" {
		t.Errorf("%+v, %v", exit, err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	// The shim leaves its exit, by which the machine is gone, and ends after that.
	for deadline := time.Now().Add(30 * time.Second); len(processesIn(t, sp.Dir)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", processesIn(t, sp.Dir))
		}
	}
	if _, err := os.Stat(filepath.Join("/run/netns", "nimbus-"+cfg.Owner+"-"+sp.ID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the namespace is left: %v", err)
	}
	if links, err := exec.Command("ip", "-br", "link").Output(); err != nil || bytes.Contains(links, []byte(netslot.TapName)) {
		t.Errorf("links: %s, %v", links, err)
	}
}

// checkPowerless tells that a monitor has nothing that a guest could take over.
func checkPowerless(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("the monitor lacks %q:\n%s", want, status)
		}
	}
}

type found struct {
	name    string
	process *os.Process
}

// processesIn finds those that work in dir.
func processesIn(t *testing.T, dir string) (out []found) {
	t.Helper()
	cwds, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, cwd := range cwds {
		if where, err := os.Readlink(cwd); err != nil || where != dir {
			continue
		}
		var pid int
		fmt.Sscanf(cwd, "/proc/%d/cwd", &pid)
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(cwd), "comm"))
		if p, err := os.FindProcess(pid); err == nil {
			out = append(out, found{strings.TrimSpace(string(name)), p})
		}
	}
	return out
}

// serve says a word to whoever connects.
func serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, "relayed")
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// keeping is what a sweep leaves.
func keeping(ids ...string) func() []string { return func() []string { return ids } }
