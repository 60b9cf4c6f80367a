package guest

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// terminal is a shell that a test opened.
type terminal struct {
	t      *testing.T
	stream *connect.BidiStreamForClient[nimbusv1.ShellRequest, nimbusv1.ShellResponse]
	cancel context.CancelFunc
	shown  map[string]string
	exit   *nimbusv1.ShellExit
}

func openShell(t *testing.T, c *guestlink.Client, spec *nimbusv1.ShellSpec) *terminal {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s := &terminal{t: t, stream: c.Shell(ctx), cancel: cancel, shown: map[string]string{}}
	if err := s.stream.Send(&nimbusv1.ShellRequest{Message: &nimbusv1.ShellRequest_Start{Start: spec}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *terminal) send(f *nimbusv1.ShellFrame) {
	s.t.Helper()
	if err := s.stream.Send(&nimbusv1.ShellRequest{Message: &nimbusv1.ShellRequest_Frame{Frame: f}}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *terminal) typed(text string) {
	s.send(&nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Input{Input: []byte(text)}})
}

// until reads until stdout holds some words.
func (s *terminal) until(words string) {
	s.t.Helper()
	for !strings.Contains(s.shown["stdout"], words) {
		if s.exit != nil || s.read() != nil {
			s.t.Fatalf("%q does not come: %q, %v", words, s.shown, s.exit)
		}
	}
}

func (s *terminal) read() error {
	m, err := s.stream.Receive()
	if err != nil {
		return err
	}
	if out := m.GetOutput(); out != nil {
		s.shown[out.GetStream()] += string(out.GetData())
	}
	s.exit = m.GetExited()
	return nil
}

// end reads until the exit.
func (s *terminal) end() *nimbusv1.ShellExit {
	s.t.Helper()
	for s.exit == nil {
		if err := s.read(); err != nil {
			s.t.Fatalf("no exit: %v, shown %q", err, s.shown)
		}
	}
	return s.exit
}

func window(rows, columns int32) *nimbusv1.WindowSize {
	return &nimbusv1.WindowSize{Rows: rows, Columns: columns}
}

// sleeper is a guest whose job sleeps.
func sleeper(t *testing.T) (c *guestlink.Client, workspace string) {
	t.Helper()
	socket, workspace := serveTest(t)
	c = dial(t, socket, testToken)
	_, err := c.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{
		AttemptId: "att", Command: []string{"sleep", "1000"}, Env: map[string]string{"JOBS": "own", "ACTIONS_RUNNER_INPUT_JITCONFIG": "secret"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	return c, workspace
}

func TestShellWithoutATerminal(t *testing.T) {
	t.Parallel()
	c, workspace := sleeper(t)
	s := openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"sh", "-c", "pwd; echo $JOBS-$ACTIONS_RUNNER_INPUT_JITCONFIG-$TERM; cat; echo err >&2; exit 7"}})
	s.typed("in\n")
	s.send(&nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_InputEnd{InputEnd: true}})
	if x := s.end(); x.Code == nil || x.GetCode() != 7 || s.shown["stdout"] != workspace+"\nown--\nin\n" || s.shown["stderr"] != "err\n" {
		t.Errorf("it ended with %v and showed %q", x, s.shown)
	}
	s = openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"sleep", "1000"}})
	s.send(&nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Signal{Signal: "SIGINT"}})
	if x := s.end(); x.GetSignal() != "SIGINT" {
		t.Errorf("after Ctrl-C: %v", x)
	}
	s = openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"no-such-program"}})
	if err := s.read(); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("no such program: %v", err)
	}
}

func TestShellWithATerminal(t *testing.T) {
	t.Parallel()
	c, _ := sleeper(t)
	s := openShell(t, c, &nimbusv1.ShellSpec{Terminal: window(33, 101), Term: "vt100"})
	s.typed("stty size; echo $TERM-$JOBS; test -t 0 -a -t 1 -a -t 2 && echo all''three\n")
	s.until("33 101")
	s.until("vt100-own")
	s.until("allthree")
	s.send(&nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Size{Size: window(44, 120)}})
	s.send(&nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Size{Size: window(1<<20, 1<<20)}}) // no size: stays as it is
	s.typed("stty size\n")
	s.until("44 120")
	s.typed("PS1='at-$((n=n+1)) '; sh -c 'echo be\"\"gun; exec sleep 1000'\n")
	s.until("begun") // by who has the terminal: before that Ctrl-C is the shell's
	s.typed("\x03")
	s.until("at-1 ") // what is typed before is dropped with the line, or taken for the end of input
	s.typed("echo still''here; exit 5\n")
	s.until("stillhere")
	if x := s.end(); x.Code == nil || x.GetCode() != 5 {
		t.Errorf("it ended with %v", x)
	}
}

// TestShellThatNobodyWatchesAnyMore ends what runs in it, and nothing of the job.
func TestShellThatNobodyWatchesAnyMore(t *testing.T) {
	t.Parallel()
	c, _ := sleeper(t)
	for name, spec := range map[string]*nimbusv1.ShellSpec{
		"terminal": {Command: []string{"sh", "-c", "echo pid=$$.; trap '' HUP; sleep 1000; sleep 1000"}, Terminal: window(24, 80)},
		"pipes":    {Command: []string{"sh", "-c", "echo pid=$$.; trap '' HUP; sleep 1000; sleep 1000"}},
	} {
		s := openShell(t, c, spec)
		s.until(".")
		var pid int
		for _, digit := range strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s.shown["stdout"]), "pid="), ".") {
			pid = 10*pid + int(digit-'0')
		}
		s.cancel()
		if err := s.stream.CloseRequest(); err != nil { // the end of the context is not seen while the request's body is open
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: process %d goes on", name, pid)
			}
		}
	}
	alive := openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"pgrep", "-x", "sleep"}})
	if x := alive.end(); x.GetCode() != 0 {
		t.Errorf("the job is gone: %v", x)
	}
}

// TestShellIsBounded: a shell too many, one before the job, one of nothing.
func TestShellIsBounded(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	if err := openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"true"}}).read(); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("before the job: %v", err)
	}
	startJob(t, c, "sleep", "1000")
	for range maxShells {
		openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"sh", "-c", "echo up; sleep 1000"}}).until("up")
	}
	if err := openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"true"}}).read(); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
}

// TestShellThatIsNotRead holds up neither the job's log nor its calls: one that
// floods and is not read, and one that reads nothing and is written to.
func TestShellThatIsNotRead(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	startJob(t, c, "sh", "-c", "sleep 1; head -c 8000000 /dev/zero | tr '\\0' x | fold -w 100; echo done")
	flood := openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"sh", "-c", "echo up; exec cat /dev/zero"}})
	flood.until("up")
	for range maxShells - 1 {
		deaf := openShell(t, c, &nimbusv1.ShellSpec{Command: []string{"sh", "-c", "echo up; exec sleep 1000"}})
		deaf.until("up")
		go func() { // blocks, until the end of the test
			for deaf.stream.Send(&nimbusv1.ShellRequest{Message: &nimbusv1.ShellRequest_Frame{Frame: &nimbusv1.ShellFrame{
				Frame: &nimbusv1.ShellFrame_Input{Input: make([]byte, 32<<10)}}}}) == nil {
			}
		}()
	}
	var r result
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r.follow(ctx, t, c, never)
	if r.exit.GetCode() != 0 || !strings.HasSuffix(r.stdout.String(), "done\n") {
		t.Errorf("the job ended with %v after %d bytes", r.exit, r.stdout.Len())
	}
}
