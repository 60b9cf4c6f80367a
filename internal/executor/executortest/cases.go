package executortest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

func testInput(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	out, exit := Do(ctx, t, s, "cat; read -r line || echo end")
	if out != "end\n" || exit.GetCode() != 0 {
		t.Errorf("exit %v, output %q", exit, out)
	}
}

func testOutput(ctx context.Context, t *testing.T, h *harness) {
	const bytes = 6 << 20 // more than the guest keeps unacknowledged
	s, _ := h.create(ctx, t)
	c := client(ctx, t, s)
	start(ctx, t, c, fmt.Sprintf("head -c %d /dev/urandom > random; cat random; sha256sum < random >&2", int64(bytes)), nil)
	stream, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	hash, said := sha256.New(), ""
	for stream.Receive() && stream.Msg().GetExited() == nil {
		switch out := stream.Msg().GetOutput(); out.GetStream() {
		case "stdout":
			hash.Write(out.GetData())
		case "stderr":
			said += string(out.GetData())
		}
		acknowledge(ctx, t, c, stream.Msg().GetSeq())
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	if stream.Err() != nil || stream.Msg().GetExited().GetCode() != 0 || !strings.HasPrefix(said, sum) {
		t.Errorf("the output has digest %s, its own is %q; %v", sum, said, stream.Err())
	}
}

func testFiles(ctx context.Context, t *testing.T, h *harness) {
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	s, _ := h.create(ctx, t)
	out, exit := Do(ctx, t, s, "./tools/build && cat out/artifact",
		File{Name: "tools/build", Mode: 0o755, Data: []byte("#!/bin/sh\nmkdir out && cat linked data.bin > out/artifact\n")},
		File{Name: "data.bin", Mode: 0o600, Data: data},
		File{Name: "linked", Link: "data.bin"})
	if out != string(bytes.Repeat(data, 2)) || exit.GetCode() != 0 {
		t.Errorf("exit %v, an artifact of %d bytes", exit, len(out))
	}
}

func testTimeout(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	c := client(ctx, t, s)
	start(ctx, t, c, "trap 'echo told' TERM; echo ready; while :; do sleep 0.1; done", nil)
	_, _, last := follow(ctx, t, c, 1, "ready\n")
	signal(ctx, t, c, "SIGTERM")
	_, _, last = follow(ctx, t, c, last+1, "told\n")
	signal(ctx, t, c, "SIGKILL")
	if _, exit, _ := follow(ctx, t, c, last+1, ""); exit.GetSignal() != "SIGKILL" {
		t.Errorf("exit %v", exit)
	}
}

func signal(ctx context.Context, t *testing.T, c *guestlink.Client, name string) {
	t.Helper()
	if _, err := c.Signal(ctx, connect.NewRequest(&nimbusv1.SignalRequest{Signal: name})); err != nil {
		t.Fatal(err)
	}
}

// testCancel gives up at several moments of a creation, and destroys in each
// phase after it.
func testCancel(ctx context.Context, t *testing.T, h *harness) {
	began := time.Now()
	for phase, reach := range map[string]func(executor.Sandbox){
		"made":     func(executor.Sandbox) {},
		"prepared": func(s executor.Sandbox) { client(ctx, t, s) },
		"running": func(s executor.Sandbox) {
			c := client(ctx, t, s)
			start(ctx, t, c, "echo ready; sleep 1000", nil)
			follow(ctx, t, c, 1, "ready")
		},
	} {
		s, err := h.executor.Create(ctx, h.spec(t))
		if err != nil {
			t.Fatal(err)
		}
		reach(s)
		if err := s.Destroy(ctx); err != nil {
			t.Errorf("%s: %v", phase, err)
		}
	}
	const phases, moments = 3, 4
	took := time.Since(began) / phases
	for i := range moments {
		making, cancel := context.WithTimeout(ctx, took*time.Duration(2*i+1)/(2*moments))
		s, err := h.executor.Create(making, h.spec(t))
		cancel()
		if err == nil {
			err = s.Destroy(ctx)
			if err != nil {
				t.Error(err)
			}
		}
	}
	h.checkNothingIsLeft(ctx, t)
}

func testGuestKilled(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	c := client(ctx, t, s)
	start(ctx, t, c, "sleep 0.3; kill -ABRT 1; sleep 1000", nil)
	if stream, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1})); err == nil { // else it has ended already
		defer stream.Close()
		for stream.Receive() {
			if stream.Msg().GetExited() != nil {
				t.Errorf("the job ended by itself: %v", stream.Msg())
			}
		}
	}
	if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitSelf {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func testMemory(ctx context.Context, t *testing.T, h *harness) {
	s, _ := h.create(ctx, t)
	// A line without an end is kept whole.
	out, exit := Do(ctx, t, s, "head -c 2G /dev/zero | tail -n 1 | wc -c")
	if !exit.GetOutOfMemory() {
		t.Errorf("exit %v, output %q", exit, out)
	}
}

// testAgentEnds has another process make a sandbox, as an agent does, and end by
// a signal: the sandbox goes on until its deadline.
func testAgentEnds(ctx context.Context, t *testing.T, h *harness) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		spec := h.spec(t)
		h.agent(ctx, t, spec, sig)
		s, err := h.executor.Adopt(ctx, spec.ID, spec.Dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Destroy(context.Background()); err != nil {
				t.Errorf("destroy: %v", err)
			}
		})
		c := client(ctx, t, s)
		start(ctx, t, c, "echo alive; sleep 1000", nil)
		follow(ctx, t, c, 1, "alive\n")
		if err := s.Renew(ctx, 200*time.Millisecond); err != nil { // the last that it hears of an agent
			t.Fatal(err)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitDeadline {
			t.Errorf("after %v: exit %+v, %v", sig, exit, err)
		}
	}
}

// slowly is how long a creation takes that is not tried often: of a machine that is
// emulated.
const slowly = 5 * time.Second

// testKilledMaking kills an agent at several moments of a creation. The next one
// takes away what there is, as far as it finds it, and makes the sandbox anew.
func testKilledMaking(ctx context.Context, t *testing.T, h *harness) {
	began := time.Now()
	whole := h.spec(t)
	h.agent(ctx, t, whole, syscall.SIGKILL)
	took := time.Since(began)
	made := func(spec executor.Spec) {
		e := h.cfg.New(t)
		left, err := e.Adopt(ctx, spec.ID, spec.Dir)
		if err == nil {
			err = left.Destroy(ctx)
		}
		if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Fatalf("take away what is left: %v", err)
		}
		if _, err := e.Sweep(ctx, keeping()); err != nil {
			t.Fatalf("take away what is left: %v", err)
		}
		if err := errors.Join(os.RemoveAll(spec.Dir), os.Mkdir(spec.Dir, 0o700)); err != nil {
			t.Fatal(err)
		}
		again := time.Now()
		s, err := e.Create(ctx, spec)
		if err != nil {
			t.Fatalf("made anew for %v, after %v: %v", time.Since(again), took, err)
		}
		if out, exit := Do(ctx, t, s, "echo made"); out != "made\n" || exit.GetCode() != 0 {
			t.Errorf("exit %v, output %q", exit, out)
		}
		if err := s.Destroy(ctx); err != nil {
			t.Error(err)
		}
	}
	made(whole)
	moments := 2
	if took > slowly {
		moments = 1
	}
	for i := range moments {
		spec := h.spec(t)
		a := StartAgent(ctx, t, h.cfg.Settings, spec)
		select { // how far it is by then is left to chance
		case <-time.After(took * time.Duration(2*i+1) / time.Duration(2*moments)):
		case <-ctx.Done():
		}
		a.End(syscall.SIGKILL)
		made(spec)
	}
	h.checkNothingIsLeft(ctx, t)
}

func testDestroy(ctx context.Context, t *testing.T, h *harness) {
	s, spec := h.create(ctx, t)
	c := client(ctx, t, s)
	start(ctx, t, c, "setsid sleep 1000 & head -c 1M /dev/zero > file; echo ready; wait", nil)
	follow(ctx, t, c, 1, "ready")
	for range 2 {
		if err := s.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
	}
	h.checkNothingIsLeft(ctx, t)
	// The shim leaves its exit, by which it is destroyed, and ends after that.
	left := namesOf(t, spec)
	for deadline := time.Now().Add(30 * time.Second); len(left) > 0 && time.Now().Before(deadline); left = namesOf(t, spec) {
		time.Sleep(10 * time.Millisecond)
	}
	for _, what := range left {
		t.Error("left behind:", what)
	}
}

// namesOf is where a sandbox is named on the host: by processes and by mounts.
func namesOf(t *testing.T, spec executor.Spec) (found []string) {
	t.Helper()
	for pattern, content := range map[string]bool{"/proc/[0-9]*/cmdline": true, "/proc/[0-9]*/cgroup": true, "/proc/self/mountinfo": true, "/proc/[0-9]*/cwd": false} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			if !content {
				var link string
				link, err = os.Readlink(path)
				raw = []byte(link)
			}
			if err == nil && (bytes.Contains(raw, []byte(spec.Dir)) || bytes.Contains(raw, []byte(spec.ID))) {
				found = append(found, fmt.Sprintf("%s: %q", path, raw))
			}
		}
	}
	return found
}

// checkNothingIsLeft has the executor look for what is nobody's.
func (h *harness) checkNothingIsLeft(ctx context.Context, t *testing.T) {
	t.Helper()
	if removed, err := h.executor.Sweep(ctx, keeping()); err != nil || len(removed) > 0 {
		t.Errorf("left behind: %v, %v", removed, err)
	}
}
