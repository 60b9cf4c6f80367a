package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/shim"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// program is the real nimbus-shim, built once.
var program string

func TestMain(m *testing.M) {
	beGuest()
	dir, err := os.MkdirTemp("", "shim-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "nimbus-shim")
	build := exec.Command("go", "build", "-o", program, "../../cmd/nimbus-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build nimbus-shim: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// start runs a shell script under a shim until the test ends.
func start(t *testing.T, s shim.Spec, script string) (c *shim.Client, dir string) {
	t.Helper()
	// Longer than a socket's path may be: it must work all the same.
	dir = filepath.Join(t.TempDir(), strings.Repeat("d", 90))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Args = []string{"/bin/sh", "-c", script}
	s.Env = append(s.Env, "PATH=/usr/bin:/bin")
	if s.Deadline == 0 {
		s.Deadline = time.Minute
	}
	c, err := shim.Start(t.Context(), program, dir, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, c) })
	return c, dir
}

// end kills a shim and returns once it has left its exit: until then it writes
// to its folder, which the test removes next.
func end(t *testing.T, c *shim.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Kill(ctx); err != nil {
		t.Error(err)
	}
	if _, err := c.Wait(ctx); err != nil {
		t.Error(err)
	}
}

func wait(t *testing.T, c *shim.Client) shim.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	exit, err := c.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// awaitFile returns a file's content once a process has written a whole line.
func awaitFile(t *testing.T, path string) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if raw, err := os.ReadFile(path); err == nil && strings.HasSuffix(string(raw), "\n") {
			return strings.TrimSpace(string(raw))
		}
	}
	t.Fatalf("%s was never written", path)
	return ""
}

func alive(t *testing.T, pid string) bool {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

func TestExitIsLeftInAFile(t *testing.T) {
	t.Parallel()
	c, dir := start(t, shim.Spec{}, "echo bye; exit 3")
	exit := wait(t, c)
	if exit.Cause != shim.CauseSelf || exit.Code != 3 || exit.Signal != "" {
		t.Errorf("got %+v", exit)
	}
	if out := string(c.Output(100)); out != "bye\n" {
		t.Errorf("output %q", out)
	}
	// Much later, by somebody else.
	again, err := shim.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := wait(t, again); got != exit {
		t.Errorf("read again: %+v, before %+v", got, exit)
	}
	if err := again.Renew(t.Context(), time.Minute); !errors.Is(err, shim.ErrGone) {
		t.Errorf("renew of a shim that ended: %v", err)
	}
}

func TestOpenOfNothing(t *testing.T) {
	t.Parallel()
	if _, err := shim.Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestStartTellsWhyNot(t *testing.T) {
	t.Parallel()
	_, err := shim.Start(t.Context(), program, t.TempDir(), shim.Spec{Args: []string{"/no/such/program"}, Deadline: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Fatal(err)
	}
}

// A grandchild in a session of its own is what a plain kill of the process
// group leaves behind.
const escaping = `setsid sh -c 'echo $$ > "$DIR/escaped"; exec sleep 1000' & echo $$ > "$DIR/first"; wait`

// TestNoShimStartsWhereOneWasKilled: the agent that launched it was killed, and
// the next one gave its sandbox up before the shim was there.
func TestNoShimStartsWhereOneWasKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spec := shim.Spec{Args: []string{"/bin/true"}, Env: []string{}, Deadline: time.Minute}
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shim.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := shim.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := exec.Command(program, dir)
	if out, err := late.CombinedOutput(); err == nil || !strings.Contains(string(out), "given up") {
		t.Errorf("a shim has started: %v, %s", err, out)
	}
	// Who owns the folder may have another sandbox there.
	again, err := shim.Start(t.Context(), program, dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, again)
}

// TestALateShimLeavesAnothersFolder: the agent that launched it was killed, and the
// next one has made the sandbox anew, in a folder of the same name.
func TestALateShimLeavesAnothersFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "sandbox")
	mkdir := func() {
		t.Helper()
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mkdir()
	spec := shim.Spec{Args: []string{"/bin/sleep", "1000"}, Env: []string{}, Deadline: time.Minute}
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shim.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	given, err := os.Open(filepath.Join(dir, "shim.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	mkdir()
	c, err := shim.Start(t.Context(), program, dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	late := exec.Command(program, dir)
	late.Stdin = given
	if out, err := late.CombinedOutput(); err == nil || !strings.Contains(string(out), "given up") {
		t.Errorf("a shim has started: %v, %s", err, out)
	}
	if err := c.Kill(t.Context()); err != nil { // the one that is meant is reached
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseKilled {
		t.Errorf("got %+v", exit)
	}
}

func TestKillTakesTheWholeTree(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{"with a cgroup": "shimtest-" + strconv.Itoa(os.Getpid()), "without": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c, _ := start(t, shim.Spec{Env: []string{"DIR=" + dir}, Cgroup: shim.Cgroup{Name: group, PIDs: 100, MemoryBytes: 256 << 20, CPUs: 1}}, escaping)
			first, escaped := awaitFile(t, dir+"/first"), awaitFile(t, dir+"/escaped")
			if err := c.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if exit := wait(t, c); exit.Cause != shim.CauseKilled || exit.Signal != "SIGKILL" || exit.Code != -1 {
				t.Errorf("got %+v", exit)
			}
			if alive(t, first) || alive(t, escaped) {
				t.Error("something of the tree is alive")
			}
			if group != "" {
				if left, err := shim.Cgroups(group); err != nil || len(left) > 0 {
					t.Errorf("cgroups left: %v, %v", left, err)
				}
			}
		})
	}
}

func TestDeadlineKillsUnlessRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const first, renewed = 10 * time.Second, 11 * time.Second // a busy machine takes a part of the first to start it all
	c, _ := start(t, shim.Spec{Env: []string{"DIR=" + dir}, Deadline: first}, escaping)
	escaped := awaitFile(t, dir+"/escaped")
	started := time.Now()
	if err := c.Renew(t.Context(), renewed); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseDeadline {
		t.Errorf("got %+v", exit)
	}
	if lived := time.Since(started); lived < renewed {
		t.Errorf("killed after %s although renewed for %s", lived, renewed)
	}
	if alive(t, escaped) {
		t.Error("the escaped process outlived the deadline")
	}
}

func TestShimKilledTakesItsProcessWithIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, _ := start(t, shim.Spec{Env: []string{"DIR=" + dir}}, `echo $PPID > "$DIR/shim"; echo $$ > "$DIR/first"; exec sleep 1000`)
	pid, err := strconv.Atoi(awaitFile(t, dir+"/shim"))
	if err != nil {
		t.Fatal(err)
	}
	first := awaitFile(t, dir+"/first")
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseUnknown {
		t.Errorf("got %+v", exit)
	}
	for deadline := time.Now().Add(30 * time.Second); alive(t, first); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the process outlived its shim")
		}
	}
}

// TestGuardTakesWhoBecameAnother: one that became another user is forgotten by
// the kernel's promise to kill it with its parent, and not by its guard.
func TestGuardTakesWhoBecameAnother(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	dir := t.TempDir()
	c, own := start(t, shim.Spec{Guard: true, Env: []string{"DIR=" + dir}},
		`exec 5> "$DIR/there"; exec setpriv --reuid 65534 --clear-groups sh -c 'sleep 1000 & echo there >&5; exec sleep 1000'`)
	awaitFile(t, dir+"/there")
	process, err := c.PID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", process)); err != nil || strings.HasPrefix(string(raw), program) {
		t.Errorf("the first process is %q, %v", raw, err)
	}
	if err := unix.Kill(shimOf(t, own), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseUnknown {
		t.Errorf("got %+v", exit)
	}
	for deadline := time.Now().Add(30 * time.Second); alive(t, strconv.Itoa(process)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the process outlived its shim")
		}
	}
}

// shimOf finds the shim that works in a folder.
func shimOf(t *testing.T, dir string) int {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range entries {
		if raw, err := os.ReadFile(path); err == nil && strings.Contains(string(raw), dir) && strings.HasPrefix(string(raw), program) {
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("there is no shim in " + dir)
	return 0
}

// TestGuardTellsHowItEnded passes on exit codes, signals and why nothing began.
func TestGuardTellsHowItEnded(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	for script, want := range map[string]shim.Exit{
		"exit 3":        {Cause: shim.CauseSelf, Code: 3},
		"kill -SEGV $$": {Cause: shim.CauseSelf, Code: -1, Signal: "SIGSEGV"},
	} {
		c, _ := start(t, shim.Spec{Guard: true}, script)
		if got := wait(t, c); got.Cause != want.Cause || got.Code != want.Code || got.Signal != want.Signal {
			t.Errorf("%s: %+v, want %+v", script, got, want)
		}
	}
	_, err := shim.Start(t.Context(), program, t.TempDir(), shim.Spec{Guard: true, Args: []string{"/no/such/program"}, Deadline: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}

// TestInheritedFilesStayOut starts a shim by a shell that holds a lock, as an
// agent may that was started under one.
func TestInheritedFilesStayOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spec := `{"args":["/bin/sh","-c","ls /proc/self/fd"],"env":["PATH=/usr/bin:/bin"],"deadline_ns":60000000000}`
	if err := os.WriteFile(filepath.Join(dir, "shim.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	launch := exec.Command("/bin/sh", "-c", `exec 9>"$1/lock"; exec "$0" "$1"`, program, dir)
	if out, err := launch.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := shim.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c)
	if out := strings.Fields(string(c.Output(100))); strings.Join(out, " ") != "0 1 2 3" { // 3 is ls' own
		t.Errorf("the process has the files %v", out)
	}
}

// TestLastWordsAreKept: who has heard of the exit finds all that was said before
// it. The file is a pipe that nobody reads yet when the process is gone.
func TestLastWordsAreKept(t *testing.T) {
	t.Parallel()
	said := filepath.Join(t.TempDir(), "said")
	if err := unix.Mkfifo(said, 0o600); err != nil {
		t.Fatal(err)
	}
	c, dir := start(t, shim.Spec{Output: said}, `echo $$ > "$PWD/first"; echo the last words`)
	pid := awaitFile(t, filepath.Join(dir, "first"))
	ended := make(chan shim.Exit, 1)
	go func() {
		exit, err := c.Wait(t.Context())
		if err != nil {
			t.Error(err)
		}
		ended <- exit
	}()
	for alive(t, pid) {
		time.Sleep(time.Millisecond)
	}
	select {
	case exit := <-ended:
		t.Fatalf("told of the exit before the output was written: %+v", exit)
	case <-time.After(100 * time.Millisecond): // as long as a wrong shim would need, no more
	}
	if out, err := os.ReadFile(said); err != nil || string(out) != "the last words\n" {
		t.Errorf("output %q, %v", out, err)
	}
	if exit := <-ended; exit.Cause != shim.CauseSelf || exit.Code != 0 {
		t.Errorf("got %+v", exit)
	}
}

func TestFloodIsBounded(t *testing.T) {
	t.Parallel()
	c, dir := start(t, shim.Spec{}, "head -c 20000000 /dev/zero | tr '\\0' x; echo; echo the end")
	if exit := wait(t, c); exit.Code != 0 {
		t.Fatalf("got %+v", exit)
	}
	var total int64
	for _, name := range []string{"output", "output.1"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			total += info.Size()
		}
	}
	if total > 1<<20 {
		t.Errorf("%d bytes of a flood are kept", total)
	}
}

func TestOwnProcessNamespace(t *testing.T) {
	t.Parallel()
	c, _ := start(t, shim.Spec{Namespaces: true}, "echo pid $$")
	if exit := wait(t, c); exit.Code != 0 {
		t.Fatalf("got %+v: %s", exit, c.Output(1000))
	}
	if out := string(c.Output(100)); out != "pid 1\n" {
		t.Errorf("output %q", out)
	}
}

// TestUsageOfATree: a tree's use is counted whichever of its processes it was,
// read while it lives and left in its exit.
func TestUsageOfATree(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	group := fmt.Sprintf("usage-test-%d", os.Getpid())
	c, dir := start(t, shim.Spec{Cgroup: shim.Cgroup{Name: group, MemoryBytes: 256 << 20, CPUs: 1}},
		"sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=f bs=1M count=8 conv=fsync 2>/dev/null'; echo > done; sleep 60")
	awaitFile(t, filepath.Join(dir, "done"))
	u, err := c.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u.CPU < 20*time.Millisecond || u.MemoryBytes <= 0 || u.WrittenBytes < 8<<20 || u.Member == 0 {
		t.Errorf("it used %+v", u)
	}
	if err := c.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	exit := wait(t, c)
	if exit.Usage.CPU < u.CPU || exit.Usage.WrittenBytes < 8<<20 || exit.OOMKills != 0 {
		t.Errorf("its exit says %+v, before that %+v", exit, u)
	}
	end, err := c.Usage(t.Context())
	if err != nil || end != exit.Usage {
		t.Errorf("after its end %+v, %v; its exit %+v", end, err, exit.Usage)
	}
}

func TestUsageWithoutACgroup(t *testing.T) {
	t.Parallel()
	c, _ := start(t, shim.Spec{}, "sleep 60")
	if u, err := c.Usage(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%+v, %v", u, err)
	}
}

// TestOutOfMemoryIsTold has a tree need more memory than it may have.
func TestOutOfMemoryIsTold(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	group := fmt.Sprintf("oom-test-%d", os.Getpid())
	c, _ := start(t, shim.Spec{Cgroup: shim.Cgroup{Name: group, MemoryBytes: 24 << 20}}, "a=x; while :; do a=$a$a; done")
	exit := wait(t, c)
	if n, err := c.OOMKills(t.Context()); err != nil || n != exit.OOMKills {
		t.Errorf("asked afterwards: %d, %v", n, err)
	}
	if exit.OOMKills < 1 || exit.Signal != "SIGKILL" || exit.Cause != shim.CauseSelf {
		t.Errorf("got %+v", exit)
	}
}
