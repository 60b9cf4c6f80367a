package shim_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/door"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// guestVariable makes this program a guest that comes by a door.
const guestVariable = "NIMBUS_SHIM_TEST_DOOR"

// beGuest serves a word to whoever connects, until its shim is gone.
func beGuest() {
	path := os.Getenv(guestVariable)
	if path == "" {
		return
	}
	serve, token, hold, err := door.Enter(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		for {
			conn, err := serve.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "%s %d\n", token, os.Getpid())
			conn.Close()
		}
	}()
	_, _ = io.Copy(io.Discard, hold)
	os.Exit(3)
}

// open starts a shim that waits for a first process.
func open(t *testing.T, deadline time.Duration) (c *shim.Client, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "door-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "door"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err = shim.Start(t.Context(), program, dir, shim.Spec{
		Door: &shim.Door{Socket: "door/in", Serve: "guest.sock", Token: "secret"}, Deadline: deadline,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, c) })
	return c, dir
}

// come starts a process that is no child of the shim's and comes by its door.
func come(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), guestVariable+"="+filepath.Join(dir, "door", "in"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func TestFirstProcessComesByTheDoor(t *testing.T) {
	t.Parallel()
	c, dir := open(t, time.Minute)
	cmd := come(t, dir)
	pid, err := c.Come(t.Context())
	if err != nil || pid != cmd.Process.Pid {
		t.Fatalf("pid %d, %v; it is %d", pid, err, cmd.Process.Pid)
	}
	if got, err := c.PID(t.Context()); err != nil || got != pid {
		t.Errorf("status tells %d, %v", got, err)
	}
	conn, err := net.Dial("unix", filepath.Join(dir, "guest.sock"))
	if err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if want := "secret " + strconv.Itoa(pid) + "\n"; err != nil || string(said) != want {
		t.Errorf("it said %q, %v", said, err)
	}
	// The door is for the first alone.
	if _, err := os.Stat(filepath.Join(dir, "door", "in")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the door is still there: %v", err)
	}
	if err := c.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseKilled || exit.Code != -1 {
		t.Errorf("exit %+v", exit)
	}
	var failed *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &failed) || !strings.Contains(failed.Error(), "killed") {
		t.Errorf("the process ended with %v", err)
	}
	if _, err := c.Come(t.Context()); !errors.Is(err, shim.ErrGone) {
		t.Errorf("after the end: %v", err)
	}
}

func TestDeadlineOfWhoCameByTheDoor(t *testing.T) {
	t.Parallel()
	c, dir := open(t, time.Minute)
	cmd := come(t, dir)
	if _, err := c.Come(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Renew(t.Context(), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseDeadline {
		t.Errorf("exit %+v", exit)
	}
	_ = cmd.Wait() // it returns
}

func TestEndOfWhoCameByTheDoorIsTold(t *testing.T) {
	t.Parallel()
	c, dir := open(t, time.Minute)
	cmd := come(t, dir)
	if _, err := c.Come(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseSelf {
		t.Errorf("exit %+v", exit)
	}
}

// TestGuestEndsWithItsShim kills the shim itself.
func TestGuestEndsWithItsShim(t *testing.T) {
	t.Parallel()
	c, dir := open(t, time.Minute)
	cmd := come(t, dir)
	if _, err := c.Come(t.Context()); err != nil {
		t.Fatal(err)
	}
	shims, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, cwd := range shims {
		if at, err := os.Readlink(cwd); err == nil && at == dir {
			pid, err := strconv.Atoi(strings.Split(cwd, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("the guest ended with %v", err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseUnknown {
		t.Errorf("exit %+v", exit)
	}
}

// TestNobodyCame is killed before its first process is there, which then finds no
// door.
func TestNobodyCame(t *testing.T) {
	t.Parallel()
	c, dir := open(t, time.Minute)
	if err := c.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c); exit.Cause != shim.CauseKilled {
		t.Errorf("exit %+v", exit)
	}
	if _, err := c.Come(t.Context()); !errors.Is(err, shim.ErrGone) {
		t.Errorf("somebody came: %v", err)
	}
	if err := come(t, dir).Wait(); err == nil {
		t.Error("who comes late was let in")
	}
}
