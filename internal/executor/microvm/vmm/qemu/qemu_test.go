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

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestTrialKernel runs the guest that tells whether KVM is real where it must
// run: emulated.
func TestTrialKernel(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "qemu")
	kernel := filepath.Join(t.TempDir(), "trial.elf")
	if err := os.WriteFile(kernel, trialKernel(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, trialArgs("tcg", "max", kernel)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stdout.String() != trialWord {
		t.Errorf("%v: it said %q; %s", err, stdout.String(), stderr.String())
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "qemu")
	d := New()
	if _, err := d.Command(vmm.Machine{}); err == nil {
		t.Error("a command line before anything was probed")
	}
	caps, err := d.Probe(t.Context())
	if err != nil || !strings.HasPrefix(caps.Version, "QEMU ") || caps.OverheadMiB == 0 {
		t.Errorf("got %+v, %v", caps, err)
	}
	args, err := d.Command(vmm.Machine{CPUs: 1, MemoryMiB: 256, Disks: []vmm.Disk{{Path: "/a,b", ReadOnly: true}}})
	if line := strings.Join(args, " "); err != nil || !strings.Contains(line, "file.filename=/a,,b,readonly=on") {
		t.Errorf("got %s, %v", line, err)
	}
}

func TestProbeWithoutQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := New().Probe(t.Context())
	if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || nimbus.ErrorHint(err) == "" {
		t.Errorf("got %v", err)
	}
}
