package docker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
)

// slowRuntime starts containers while there is no file "hold", and says by a file
// "starting" that it is to start one.
const slowRuntime = `#!/bin/sh
case " $* " in *" start "*) touch %[1]s/starting; while [ -e %[1]s/hold ]; do sleep 0.05; done;; esac
exec runc "$@"
`

// TestDaemonDiesAsItStarts kills the daemon between the making of a container's
// first process and its start. It has forgotten that container when it is back;
// the sweep finds it, and leaves another's that runs beside it.
func TestDaemonDiesAsItStarts(t *testing.T) {
	dir := t.TempDir()
	runtime := filepath.Join(dir, "slow")
	if err := os.WriteFile(runtime, fmt.Appendf(nil, slowRuntime, dir), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg, d := config(t, "--add-runtime", "slow="+runtime, "--default-runtime", "slow")
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	other := cfg
	other.Owner, other.Dir = cfg.Owner+"o", t.TempDir()
	neighbour := sandbox(ctx, t, create(t, other), spec(t))

	hold := filepath.Join(dir, "hold")
	if err := errors.Join(os.WriteFile(hold, nil, 0o600), os.Remove(filepath.Join(dir, "starting"))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(hold) })
	before := cgroups()
	sp := spec(t)
	failed := make(chan error, 1)
	making, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() {
		_, err := create(t, cfg).Create(making, sp)
		failed <- err
	}()
	await(t, "its start", func() bool { _, err := os.Stat(filepath.Join(dir, "starting")); return err == nil })
	if len(cgroups()) <= len(before) {
		t.Fatal("there is nothing to forget")
	}
	if err := d.Restart("KILL"); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Fatal("it started")
	}
	if err := d.Await(); err != nil {
		t.Fatal(err)
	}
	// Whoever tries again with the same name does not forget it either.
	note := filepath.Join(cfg.Dir, "containers", sp.ID)
	f, err := os.OpenFile(note, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(strings.Repeat("0", 64) + "\nstarted\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := create(t, cfg).Sweep(ctx, func() []string { return nil }); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of what was forgotten", func() bool { return len(cgroups()) == len(before) })
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var roots []string
	for line := range strings.Lines(string(raw)) {
		if point := strings.Fields(line)[1]; strings.HasPrefix(point, filepath.Dir(d.Socket)+"/") && strings.HasSuffix(point, "/merged") {
			roots = append(roots, point)
		}
	}
	if len(roots) != 1 { // the neighbour's
		t.Errorf("roots of containers are mounted: %v", roots)
	}
	if removed, err := create(t, cfg).Sweep(ctx, func() []string { return nil }); err != nil || len(removed) != 0 {
		t.Errorf("the next sweep removed %v, %v", removed, err)
	}
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(note, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, cfg).Sweep(ctx, func() []string { return nil }); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Dir(note)); err != nil || len(left) > 0 {
		t.Errorf("notes: %v, %v", left, err)
	}
	if out, exit := executortest.Do(ctx, t, neighbour, "echo alive"); out != "alive\n" {
		t.Errorf("the neighbour: %q, %v", out, exit)
	}
}

// await waits for what takes others a moment.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}
