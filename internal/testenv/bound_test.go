package testenv_test

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// onOwnThread does something on a thread that ends with it.
func onOwnThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()              // and never unlocked
		if unix.Gettid() == unix.Getpid() { // the first one goes on for ever
			onOwnThread(do)
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}

// TestBoundOutlivesAThread: one that ends takes what it started by itself with it, and
// not what is bound to the process.
func TestBoundOutlivesAThread(t *testing.T) {
	t.Parallel()
	bound, other := exec.Command("sleep", "1000"), exec.Command("sleep", "1000")
	other.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	onOwnThread(func() {
		if err := errors.Join(other.Start(), testenv.StartBound(bound)); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		return
	}
	if err := other.Wait(); err == nil { // by the kernel: nobody else ends it
		t.Error("the thread goes on")
	}
	// It has had the same signal by now, if any: what it ends with tells.
	if err := bound.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := bound.Wait(); !errors.As(err, &exit) {
		t.Fatalf("what is bound to the process: %v", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("what is bound to the process has ended with the thread: %v", exit)
	}
}
