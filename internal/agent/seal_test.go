package agent

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// testSeal seals what a test's attempt keeps.
func testSeal() cipher.AEAD {
	aead, err := (&sealer{key: make([]byte, keyBytes)}).of("att_test")
	if err != nil {
		panic(err) // of 32 bytes there always is one
	}
	return aead
}

func TestKeyOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	memory, data := filepath.Join(t.TempDir(), "keys"), t.TempDir()
	open := func(data string) *sealer {
		t.Helper()
		s, err := openSealer(data, []string{memory})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, again, other := open(data), open(data), open(t.TempDir())
	if !bytes.Equal(first.key, again.key) {
		t.Error("the next agent has another key")
	}
	if bytes.Equal(first.key, other.key) {
		t.Error("two agents have one key")
	}
	for path, want := range map[string]os.FileMode{memory: 0o700, first.path: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if err := errors.Join(first.forget(), first.forget()); err != nil {
		t.Error(err)
	}
	if bytes.Equal(open(data).key, first.key) {
		t.Error("a key that was forgotten is there")
	}
}

// TestKeyIsFoundWhereItWas: an agent that may have another folder than the one before
// has the same key; and one whose file somebody took away writes it anew.
func TestKeyIsFoundWhereItWas(t *testing.T) {
	t.Parallel()
	data, login, shared := t.TempDir(), filepath.Join(t.TempDir(), "login"), filepath.Join(t.TempDir(), "shared")
	first, err := openSealer(data, []string{shared})
	if err != nil {
		t.Fatal(err)
	}
	again, err := openSealer(data, []string{login, shared})
	if err != nil || !bytes.Equal(first.key, again.key) || again.path != first.path {
		t.Errorf("with another folder before it there is another key: %v", err)
	}
	if err := errors.Join(os.RemoveAll(shared), again.keep()); err != nil {
		t.Fatal(err)
	}
	if kept, err := openSealer(data, []string{login, shared}); err != nil || !bytes.Equal(kept.key, first.key) {
		t.Errorf("the key that was taken away is not there again: %v", err)
	}
}

// TestNoKeyWhereOthersCanRead: everybody may make folders in /dev/shm.
func TestNoKeyWhereOthersCanRead(t *testing.T) {
	t.Parallel()
	open, link, own := filepath.Join(t.TempDir(), "open"), filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "own")
	if err := errors.Join(os.Mkdir(open, 0o755), os.Mkdir(own, 0o700), os.Symlink(own, link)); err != nil {
		t.Fatal(err)
	}
	_, err := openSealer(t.TempDir(), []string{open, link, "/nowhere/at/all"})
	if nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("the key is kept where others can read it: %v", err)
	}
	if s, err := openSealer(t.TempDir(), []string{open, own}); err != nil || filepath.Dir(s.path) != own {
		t.Errorf("the folder that is this user's alone is not taken: %v", err)
	}
}

// TestStateIsSealed: nothing on the disk says what a job must not lose, the next
// agent knows it all the same, and one without the key ends the attempt.
func TestStateIsSealed(t *testing.T) {
	t.Parallel()
	data, memory := t.TempDir(), filepath.Join(t.TempDir(), "keys")
	agent := func() *Agent {
		a := &Agent{cfg: Config{Data: data}, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
		var err error
		if a.sealer, err = openSealer(data, []string{memory}); err != nil {
			t.Fatal(err)
		}
		return a
	}
	id := nimbus.NewID(nimbus.PrefixAttempt, time.Now())
	as := nimbus.Assignment{Lease: nimbus.Lease{AttemptID: id}, JobToken: "the-job-token", CacheToken: "the-cache-token"}
	made, err := agent().newAttempt(as, nimbus.Reservation{CPUs: 1}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	made.state.Secrets = append(made.state.Secrets, "registered")
	request := &nimbusv1.StartRequest{AttemptId: id, Env: map[string]string{"TOKEN": "in-the-environment"}}
	if err := errors.Join(made.state.setStart(request), made.save()); err != nil {
		t.Fatal(err)
	}
	s, event := made.newSplitter()
	written := s.Write(nimbus.StreamStdout, []byte("::add-mask::added\nshown\nbegun with added"))
	cp, err := made.checkpoint(event+3, s)
	if err := errors.Join(err, made.wal.Append(written, cp), made.wal.Close()); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(data, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, secret := range []string{"the-job-token", "the-cache-token", "registered", "in-the-environment", "added", "begun with"} {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%s has %q", path, secret)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	adopt := func(a *Agent) *attempt {
		t.Helper()
		found, err := a.loadAttempts(t.Context())
		if err != nil || len(found) != 1 {
			t.Fatalf("%d attempts, %v", len(found), err)
		}
		t.Cleanup(func() { found[0].wal.Close() })
		return found[0]
	}
	next := adopt(agent())
	if start, err := next.state.start(); err != nil || start.GetEnv()["TOKEN"] != "in-the-environment" || next.assign.JobToken != "the-job-token" || next.assign.CacheToken != "the-cache-token" {
		t.Errorf("the next agent reads %v, %+v, %v", start, next.assign, err)
	}
	s, event = next.newSplitter()
	var text strings.Builder
	for _, l := range append(s.Write(nimbus.StreamStdout, []byte(", registered\n")), s.Flush()...) {
		text.WriteString(l.Text)
	}
	if text.String() != "begun with ***, ***" || event != 3 || next.why() != nil {
		t.Errorf("the next agent goes on after event %d with %q, %v", event, text.String(), next.why())
	}

	if err := os.RemoveAll(memory); err != nil {
		t.Fatal(err)
	}
	lost := adopt(agent())
	if !errors.Is(lost.why(), errKeysLost) || !lost.begun() {
		t.Errorf("without the key: begun %t, ended by %v", lost.begun(), lost.why())
	}
	if o := endedBy(lost.why()); o.Result != nimbus.ResultFailure || o.Reason.Code != nimbus.ReasonSandboxFailed {
		t.Errorf("it is told as %+v", o)
	}
}

// TestOpenStateIsRead, as agents kept it before they sealed it: they are replaced
// while jobs run.
func TestOpenStateIsRead(t *testing.T) {
	t.Parallel()
	s := state{Sealed: nil, confidential: confidential{Start: []byte(`{"attemptId":"att_x"}`), Secrets: []string{"s"}}}
	if err := s.unseal(testSeal()); err != nil {
		t.Fatal(err)
	}
	if r, err := s.start(); err != nil || r.GetAttemptId() != "att_x" || len(s.Secrets) != 1 {
		t.Errorf("%v, %v", r, err)
	}
}
