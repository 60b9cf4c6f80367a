package guest

import (
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

func startRehearsal(t *testing.T, c *guestlink.Client, command ...string) error {
	t.Helper()
	_, err := c.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "rehearsal", Command: command, Rehearsal: true}))
	return err
}

// watchRehearsal returns what a rehearsal wrote, once it has ended.
func watchRehearsal(t *testing.T, c *guestlink.Client) string {
	t.Helper()
	stream, err := c.Watch(t.Context(), connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1, Rehearsal: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var out string
	for stream.Receive() {
		out += string(stream.Msg().GetOutput().GetData())
		if exit := stream.Msg().GetExited(); exit != nil {
			return out + exit.GetSignal()
		}
	}
	t.Fatalf("a rehearsal without an end: %v", stream.Err())
	return ""
}

// TestRehearsal: nothing of a rehearsal is the job's, which comes after it.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	stream, err := c.Watch(t.Context(), connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1, Rehearsal: true}))
	if err == nil {
		stream.Receive()
		err = stream.Err()
		stream.Close()
	}
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("watch none: %v", err)
	}
	for range 2 {
		if err := startRehearsal(t, c, "sh", "-c", "echo rehearsed"); err != nil {
			t.Fatal(err)
		}
		if out := watchRehearsal(t, c); out != "rehearsed\n" {
			t.Errorf("a rehearsal wrote %q", out)
		}
	}
	if err := startRehearsal(t, c, "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	// The end of one kills whatever runs: no job may run by then.
	_, err = c.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: []string{"true"}}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("a job in a rehearsal: %v", err)
	}
	if _, err := c.Signal(t.Context(), connect.NewRequest(&nimbusv1.SignalRequest{Signal: "SIGKILL"})); err != nil {
		t.Fatal(err)
	}
	if out := watchRehearsal(t, c); out != "SIGKILL" {
		t.Errorf("one that was killed: %q", out)
	}
	startJob(t, c, "sh", "-c", "echo job")
	var r result
	r.follow(t.Context(), t, c, never)
	if r.stdout.String() != "job\n" || r.last != 2 || r.exit.GetCode() != 0 {
		t.Errorf("the job wrote %q, %d events, %v", r.stdout.String(), r.last, r.exit)
	}
	if err := startRehearsal(t, c, "true"); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("a rehearsal after the job: %v", err)
	}
}

// TestRehearsalNeedsNoPrepare: it comes before a machine is saved, which must
// not have been told who it is.
func TestRehearsalNeedsNoPrepare(t *testing.T) {
	t.Parallel()
	s := &service{version: "test", machine: true, workspace: t.TempDir(), tree: &session{}, events: newEvents()}
	request := connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "rehearsal", Command: []string{"true"}, Rehearsal: true})
	if _, err := s.Start(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	for seq := int64(1); ; seq++ {
		event, err := s.rehearsed.next(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if event.GetExited() != nil {
			break
		}
	}
	if err := s.checkPrepared(); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("after it, a job may run: %v", err)
	}
}

// TestPreload reads files as long as there is room, and passes over what is none.
func TestPreload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, size := range map[string]int{"a": 100, "b": 1000, "c": 100} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "endless")); err != nil {
		t.Fatal(err)
	}
	if left := preload(500, "/no/such", dir, filepath.Join(dir, "a")); left != 200 {
		t.Errorf("%d bytes of room are left", left)
	}
}
