package qemu

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// start runs what Command says and returns what it will have said.
func start(ctx context.Context, t *testing.T, d *Driver, m vmm.Machine, more ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	args, err := d.Command(m)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], append(args[1:], more...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = m.Dir, &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

// running waits until the monitor takes orders, and asks it.
func running(ctx context.Context, t *testing.T, dir string) bool {
	t.Helper()
	q, err := awaitQMP(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer q.close()
	var status struct {
		Running bool `json:"running"`
	}
	if err := q.do(ctx, "query-status", nil, &status); err != nil {
		t.Fatal(err)
	}
	return status.Running
}

// TestTwoOfOne saves a machine that is about to run and makes two of it, which
// both run to the guest's end, while the saved memory stays what it was.
func TestTwoOfOne(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root", "qemu") // the monitor gives up root's powers
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	kernel := filepath.Join(dir, "kernel")
	for path, content := range map[string][]byte{kernel: trialKernel(), filepath.Join(dir, "initrd"): []byte("none")} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	machine := func(from *vmm.Snapshot) vmm.Machine {
		return vmm.Machine{
			Dir: t.TempDir(), CPUs: 1, MemoryMiB: 64, Kernel: kernel, Initrd: filepath.Join(dir, "initrd"),
			From: from, Savable: from == nil,
		}
	}
	d := New()
	if _, err := d.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	source := machine(nil)
	cmd, out := start(ctx, t, d, source, "-S")
	into := t.TempDir()
	if running(ctx, t, source.Dir) {
		t.Fatal("the source runs")
	}
	saved, err := d.Snapshot(ctx, source.Dir, into)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := order(ctx, source.Dir, "quit"); err != nil && ctx.Err() != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || out.String() == trialWord {
		t.Fatalf("the source: %v: %s", err, out)
	}
	before, err := os.ReadFile(saved.Memory)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m := machine(&saved)
		cmd, out := start(ctx, t, d, m)
		if err := d.Restore(ctx, m); err != nil {
			t.Fatal(err)
		}
		if running(ctx, t, m.Dir) {
			t.Error("it runs before it was resumed")
		}
		if err := d.Resume(ctx, m.Dir); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), trialWord) {
			t.Errorf("%v: it said %q", err, out)
		}
	}
	after, err := os.ReadFile(saved.Memory)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the saved memory has changed (%v)", err)
	}
}

func TestOnlyWhatIsSavableIsSaved(t *testing.T) {
	t.Parallel()
	if _, err := New().Snapshot(t.Context(), t.TempDir(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "not booted to be saved") {
		t.Errorf("got %v", err)
	}
}
