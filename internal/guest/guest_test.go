package guest

import (
	"archive/tar"
	"bytes"
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
	"testing/iotest"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	dockerimage "github.com/nimbus-ci/nimbus/images/docker"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

const testToken = "secret"

// serveTest serves a guest that isn't pid 1 and returns its socket and workspace.
func serveTest(t *testing.T) (socket, workspace string) {
	t.Helper()
	workspace = t.TempDir()
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{version: "test", workspace: workspace, tree: &session{}, events: newEvents()}
	go func() { _ = serve([]net.Listener{l}, s, testToken) }()
	t.Cleanup(func() { s.tree.kill(9); l.Close() })
	return socket, workspace
}

func dial(t *testing.T, socket, token string) *guestlink.Client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c := guestlink.NewClient(conn, token)
	t.Cleanup(func() { c.Close() })
	return c
}

func startJob(t *testing.T, c *guestlink.Client, command ...string) {
	t.Helper()
	if _, err := c.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: command})); err != nil {
		t.Fatal(err)
	}
}

// result is what a job wrote and how it ended.
type result struct {
	stdout, stderr bytes.Buffer
	exit           *nimbusv1.Exited
	last           int64
}

// follow reads events from r.last+1 on, acknowledging, until the exit or until
// stop says so.
func (r *result) follow(ctx context.Context, t *testing.T, c *guestlink.Client, stop func() bool) {
	t.Helper()
	stream, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: r.last + 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for stream.Receive() {
		event := stream.Msg()
		if event.GetSeq() != r.last+1 {
			t.Fatalf("event %d after %d", event.GetSeq(), r.last)
		}
		r.last = event.GetSeq()
		if out := event.GetOutput(); out != nil {
			if out.GetStream() == "stdout" {
				r.stdout.Write(out.GetData())
			} else {
				r.stderr.Write(out.GetData())
			}
			if _, err := c.Acknowledge(ctx, connect.NewRequest(&nimbusv1.AcknowledgeRequest{Seq: r.last})); err != nil {
				t.Fatal(err)
			}
		}
		if r.exit = event.GetExited(); r.exit != nil || stop() {
			return
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
}

func never() bool { return false }

func TestJobs(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		command []string
		code    int32
		signal  string
		stdout  string
		stderr  string
	}{
		"success":         {command: []string{"sh", "-c", "echo out; echo err >&2; pwd >/dev/null"}, stdout: "out\n", stderr: "err\n"},
		"exit code":       {command: []string{"sh", "-c", "exit 3"}, code: 3},
		"signal":          {command: []string{"sh", "-c", "kill -9 $$"}, signal: "SIGKILL"},
		"no such command": {command: []string{"no-such-command"}, code: 127, stderr: "nimbus: no-such-command: command not found\n"},
		"no program":      {command: []string{"/etc/passwd"}, code: 126, stderr: "nimbus: /etc/passwd: permission denied\n"},
		"NUL in argument": {command: []string{"echo", "a\x00b"}, code: 126, stderr: "nimbus: an argument or a variable of the command holds a NUL character, which no process can be given\n"},
		"empty input":     {command: []string{"cat"}},
		"output of a grandchild": {
			command: []string{"sh", "-c", "(sleep 0.3; echo late) & echo early"}, stdout: "early\nlate\n",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket, _ := serveTest(t)
			c := dial(t, socket, testToken)
			startJob(t, c, tt.command...)
			var r result
			r.follow(t.Context(), t, c, never)
			if r.exit.GetCode() != tt.code || r.exit.GetSignal() != tt.signal || (r.exit.Code == nil) != (tt.signal != "") {
				t.Errorf("exit %v", r.exit)
			}
			if r.stdout.String() != tt.stdout || r.stderr.String() != tt.stderr {
				t.Errorf("stdout %q, stderr %q", r.stdout.String(), r.stderr.String())
			}
		})
	}
}

// TestWhatExecRefuses: the command is there, but it can't be run.
func TestWhatExecRefuses(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{"no interpreter named": "echo hi\n", "no such interpreter": "#!/no/such\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket, workspace := serveTest(t)
			if err := os.WriteFile(filepath.Join(workspace, "run"), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			c := dial(t, socket, testToken)
			startJob(t, c, "./run")
			var r result
			r.follow(t.Context(), t, c, never)
			if r.exit.GetCode() != exitNotExecutable || !strings.HasPrefix(r.stderr.String(), "nimbus: ") {
				t.Errorf("exit %v, stderr %q", r.exit, r.stderr.String())
			}
		})
	}
}

func TestOnlyTheAgentMayCall(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	for _, token := range []string{"", "wrong"} {
		_, err := dial(t, socket, token).Prepare(t.Context(), connect.NewRequest(&nimbusv1.PrepareRequest{}))
		if connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

func TestASandboxServesOneJob(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	startJob(t, c, "true")
	startJob(t, c, "true") // the answer was lost
	_, err := c.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "other", Command: []string{"true"}}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("a second job: %v", err)
	}
}

// TestReconnect breaks the connection again and again in the middle of a big
// binary output: no byte may be lost or come twice.
func TestReconnect(t *testing.T) {
	t.Parallel()
	socket, workspace := serveTest(t)
	data := make([]byte, 12<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	if err := os.WriteFile(filepath.Join(workspace, "data"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, socket, testToken)
	startJob(t, c, "cat", "data")
	var r result
	for r.exit == nil {
		seen := 0
		r.follow(t.Context(), t, c, func() bool { seen++; return seen == 57 })
		c.Close()
		c = dial(t, socket, testToken)
	}
	if sha256.Sum256(r.stdout.Bytes()) != sha256.Sum256(data) {
		t.Errorf("%d bytes arrived of %d, or changed ones", r.stdout.Len(), len(data))
	}
}

// TestBackPressure: a job whose output nobody acknowledges blocks; the guest
// holds a bounded part of it.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	e := newEvents()
	wrote := make(chan int, 1)
	go func() {
		n := 0
		for range 200 {
			e.output("stdout", make([]byte, outputChunk))
			n += outputChunk
		}
		wrote <- n
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := e.next(ctx, eventBound/(outputChunk+eventCost)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-wrote:
		t.Fatal("more than the bound was taken without an acknowledgement")
	case <-time.After(50 * time.Millisecond):
	}
	e.acknowledge(100)
	if _, err := e.next(ctx, 200); err != nil {
		t.Fatal(err)
	}
	<-wrote
}

// TestTheTailIsKeptForALateAgent: the bound on reading passes while the agent
// is away; what lies in the pipe arrives all the same.
func TestTheTailIsKeptForALateAgent(t *testing.T) {
	t.Parallel()
	e := newEvents()
	const full = eventBound / (outputChunk + eventCost)
	for range full {
		e.output("stdout", make([]byte, outputChunk))
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.Write(make([]byte, outputChunk+4)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), r.SetReadDeadline(time.Now())); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { defer close(read); (&process{events: e}).read(&outlet{file: r}, "stdout") }()
	e.acknowledge(full)
	<-read
	got := 0
	for _, event := range e.list {
		got += len(event.GetOutput().GetData())
	}
	if got != outputChunk+4 {
		t.Errorf("%d bytes arrived of %d", got, outputChunk+4)
	}
}

// TestShortWritesMeetTheBound: a job that writes byte by byte while the agent is
// away costs no more memory than one that writes much at once.
func TestShortWritesMeetTheBound(t *testing.T) {
	t.Parallel()
	e := newEvents()
	r := iotest.OneByteReader(bytes.NewReader(make([]byte, 20_000)))
	read := make(chan error, 1)
	go func() { read <- (&process{events: e}).copyOutput(r, "stdout", func(int) {}) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	const full = eventBound / (1 + eventCost)
	last, err := e.next(ctx, full)
	if err != nil {
		t.Fatal(err)
	}
	if data := last.GetOutput().GetData(); cap(data) > eventCost {
		t.Errorf("an event of %d bytes holds %d", len(data), cap(data))
	}
	select {
	case <-read:
		t.Fatal("more than the bound was taken without an acknowledgement")
	case <-time.After(50 * time.Millisecond):
	}
	for seq := int64(1); seq <= 20_000; seq++ {
		if _, err := e.next(ctx, seq); err != nil {
			t.Fatal(err)
		}
		e.acknowledge(seq)
	}
	if err := <-read; !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestLeftoverProcessesAreKilled(t *testing.T) {
	t.Parallel()
	socket, workspace := serveTest(t)
	c := dial(t, socket, testToken)
	startJob(t, c, "sh", "-c", "sleep 1000 & echo $! > pid")
	var r result
	r.follow(t.Context(), t, c, never)
	pid, err := os.ReadFile(filepath.Join(workspace, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", strings.TrimSpace(string(pid))))
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("the job's leftover lives: %s", stat)
	}
}

// archive makes a tar.zst of headers, each with its name as content.
func archive(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files, _, err := unpack(archive(t,
		tar.Header{Name: "src/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "src/run.sh", Typeflag: tar.TypeReg, Mode: 0o755},
		tar.Header{Name: "deep/er/file", Typeflag: tar.TypeReg, Mode: 0o644},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "src/run.sh"},
	), dir, false)
	if err != nil || files != 4 {
		t.Fatal(files, err)
	}
	info, err := os.Stat(filepath.Join(dir, "link"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
}

// closedIn watches a folder; what it returns waits until a file of that name has been
// written there.
func closedIn(t *testing.T, dir, name string) (wait func()) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	seen := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { seen.Close() })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := seen.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for buf := make([]byte, 4096); ; {
			n, err := seen.Read(buf)
			if err != nil {
				t.Fatalf("%s is not written: %v", name, err)
			}
			if bytes.Contains(buf[:n], []byte(name+"\x00")) {
				return
			}
		}
	}
}

// TestAWorkspaceComesAgain: the connection breaks while it is unpacked, and the
// agent sends it once more.
func TestAWorkspaceComesAgain(t *testing.T) {
	t.Parallel()
	socket, workspace := serveTest(t)
	whole, err := io.ReadAll(archive(t,
		tar.Header{Name: "src/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "src/run.sh", Typeflag: tar.TypeReg, Mode: 0o755},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "src/run.sh"},
		tar.Header{Name: "last", Typeflag: tar.TypeReg, Mode: 0o644},
	))
	if err != nil {
		t.Fatal(err)
	}
	send := func(c *guestlink.Client, part []byte) *connect.ClientStreamForClient[nimbusv1.PutWorkspaceRequest, nimbusv1.PutWorkspaceResponse] {
		stream := c.PutWorkspace(t.Context())
		if err := stream.Send(&nimbusv1.PutWorkspaceRequest{Chunk: part}); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	written := closedIn(t, workspace, "last")
	first := dial(t, socket, testToken)
	send(first, whole) // whose answer is not heard
	written()
	first.Close()
	answer, err := send(dial(t, socket, testToken), whole).CloseAndReceive()
	if err != nil || answer.Msg.GetFiles() != 4 {
		t.Fatalf("%v, %v", answer, err)
	}
	for name, want := range map[string]string{"src/run.sh": "src/run.sh", "link": "src/run.sh", "last": "last"} {
		if got, err := os.ReadFile(filepath.Join(workspace, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestUnpackStaysInside(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]tar.Header{
		"parent":               {{Name: "../evil", Typeflag: tar.TypeReg}},
		"absolute":             {{Name: "/tmp/evil", Typeflag: tar.TypeReg}},
		"through a link":       {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "out/evil", Typeflag: tar.TypeReg}},
		"through an abs link":  {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/"}, {Name: "out/evil", Typeflag: tar.TypeReg}},
		"over a link":          {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "../evil"}, {Name: "out", Typeflag: tar.TypeReg}},
		"a device":             {{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"a hard link outwards": {{Name: "passwd", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			dir := filepath.Join(parent, "workspace")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if _, _, err := unpack(archive(t, headers...), dir, false); err == nil {
				t.Error("it was taken")
			}
			if _, err := os.Lstat(filepath.Join(parent, "evil")); err == nil {
				t.Error("it landed outside")
			}
		})
	}
}

// TestNothingOfAJobBeforePrepare asks a machine that nobody has prepared: what
// was made of a snapshot has the random numbers of its siblings.
func TestNothingOfAJobBeforePrepare(t *testing.T) {
	t.Parallel()
	s := &service{machine: true, workspace: t.TempDir(), tree: &session{}, events: newEvents()}
	_, err := s.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: []string{"true"}}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("start: %v", err)
	}
	if _, err := s.PutWorkspace(t.Context(), nil); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("workspace: %v", err)
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	got, err := parseParameters("quiet nimbus.root=/dev/vda nimbus.rootfs=squashfs nimbus.rw=/dev/vdb nimbus.settle nimbus.vsock=1024")
	want := kernelParameters{root: "/dev/vda", rootType: "squashfs", rw: "/dev/vdb", settle: true, vsock: 1024}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := parseParameters("nimbus.vsock=many"); err == nil {
		t.Error("a port that is no number was taken")
	}
}

// TestPlacesOfDocker: the image and the guest mean the same.
func TestPlacesOfDocker(t *testing.T) {
	t.Parallel()
	if name, _, _ := strings.Cut(dockerimage.Group, ":"); dockerModules != dockerimage.ModulesDir || dockerGroup != name {
		t.Errorf("the image has %s and %s", dockerimage.ModulesDir, dockerimage.Group)
	}
}
