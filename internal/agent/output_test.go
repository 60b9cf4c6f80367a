package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/logs/wal"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestFullDiskOfTheHost: a log that the host has no room for is told as the
// host's fault, to whom the job belongs and in the host's own log.
func TestFullDiskOfTheHost(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	w, err := wal.Open(filepath.Join(disk, "wal"), walLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f, told := followed(w)
	err = f.store(t.Context(), f.splitter.Write(nimbus.StreamStdout, bytes.Repeat([]byte("a line\n"), 64<<10)))
	got := f.sandboxReason(err)
	if got.Code != nimbus.ReasonSandboxFailed || got.Message != "its host's disk is full: what the job wrote could not be kept" {
		t.Errorf("%v is told as %+v", err, got)
	}
	if !strings.Contains(told.String(), "no space left on device") {
		t.Errorf("the host's log says %q", told)
	}
}

// TestWhyASandboxEnded: each way has words of its own, and what they leave out is
// in the host's log.
func TestWhyASandboxEnded(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct {
		exit *executor.Exit // nil while it lives
		err  error
	}{
		"its sandbox can't be reached": {nil, fmt.Errorf("%w: connection refused", errSilent)},
		"its sandbox ended under it: its supervisor on the host, nimbus-shim, was killed": {&executor.Exit{Cause: executor.ExitUnknown, Code: -1}, errDead},
		"its sandbox ended under it: the kernel panicked":                                 {&executor.Exit{Cause: executor.ExitSelf, Why: "the kernel panicked"}, errDead},
		"its host could not keep what the job wrote: input/output error":                  {nil, &hostError{unix.EIO}},
	} {
		f, told := followed(nil)
		if c.exit != nil {
			f.g.exit = *c.exit
			close(f.g.dead)
		}
		if got := f.sandboxReason(c.err).Message; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if told.Len() == 0 || c.exit == nil && !strings.Contains(told.String(), errors.Unwrap(c.err).Error()) {
			t.Errorf("%s: the host's log says %q", want, told)
		}
	}
}

// followed is an attempt whose output is followed, and what its host logs.
func followed(w *wal.Log) (*follower, *bytes.Buffer) {
	var told bytes.Buffer
	t := &attempt{
		agent: &Agent{cfg: Config{MaxLogBytes: 1 << 30}}, wal: w, seal: testSeal(), ended: make(chan struct{}),
		log: slog.New(slog.NewTextHandler(&told, nil)),
	}
	f := &follower{t: t, g: &guest{t: t, dead: make(chan struct{})}, first: true}
	if w != nil {
		f.splitter, _ = t.newSplitter()
	}
	return f, &told
}

// TestMasksOfTheReceiver: what the job sends to be hidden is hidden in its output from
// then on, and in what it tells elsewhere.
func TestMasksOfTheReceiver(t *testing.T) {
	t.Parallel()
	w, err := wal.Open(filepath.Join(t.TempDir(), "wal"), walLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f, _ := followed(w)
	f.begun = func() {}
	more := make(chan *nimbusv1.WatchResponse, 2)
	output := func(seq int64, stream, text string) *nimbusv1.WatchResponse {
		return &nimbusv1.WatchResponse{Seq: seq, Event: &nimbusv1.WatchResponse_Output{Output: &nimbusv1.Output{Stream: stream, Data: []byte(text)}}}
	}
	more <- output(2, "mask", "hide me")
	more <- output(3, "stdout", "it is hide me\n")
	batch, err := f.collect(output(1, "stdout", "it is hide me, "), more)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.store(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if len(batch) != 1 || batch[0].Text != "it is ***, it is ***" {
		t.Errorf("its log is %v", batch)
	}
	if got := f.t.secrets(); len(got) != 1 || got[0] != "hide me" {
		t.Errorf("the secrets are %q", got)
	}
	if _, err := f.collect(output(4, "masks", "no such stream"), nil); err == nil {
		t.Error("a stream that there is not is taken")
	}
}

// TestTimeoutNamesTheLimit, and what moves it where that is Nimbus' own.
func TestTimeoutNamesTheLimit(t *testing.T) {
	t.Parallel()
	for source, want := range map[nimbus.Source]string{
		nimbus.SourceNative: "ran longer than it may: its limit is 30m0s, --timeout sets another",
		nimbus.SourceGitHub: "ran longer than it may: its limit is 30m0s",
	} {
		o := endedBy(timeoutError(30*time.Minute, source))
		if o.Result != nimbus.ResultTimedOut || o.Reason != (nimbus.Reason{Code: nimbus.ReasonTimeout, Message: want}) {
			t.Errorf("of %s: %+v", source, o)
		}
	}
}
