package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/jailer"
)

// overheadMiB is the memory that a monitor and its jailer need beside the
// guest's: 5 MiB by its specification, and what its devices hold in flight.
const overheadMiB = 48

// Bounds of what the probe starts.
const (
	versionTimeout = 20 * time.Second
	trialTimeout   = 10 * time.Second
)

// found are the programs.
type found struct {
	firecracker, jailer string // absolute, links followed
}

func (d *Driver) probe(ctx context.Context) (found, vmm.Caps, error) {
	f, version, err := d.find(ctx)
	if err != nil {
		return found{}, vmm.Caps{}, err
	}
	if os.Geteuid() != 0 {
		return found{}, vmm.Caps{}, nimbus.Errorf(nimbus.CodeUnavailable, "Firecracker's jailer needs root").
			WithHint("run the agent as root")
	}
	if err := TryGuest(ctx, f.firecracker, d.cfg.Trial); err != nil {
		return found{}, vmm.Caps{}, nimbus.Errorf(nimbus.CodeUnavailable, "Firecracker can't run guests here: %v", err).
			WithHint("Firecracker has no emulation: use QEMU on this machine, or a machine with KVM")
	}
	return f, vmm.Caps{
		Monitor: Name, Version: version, Accelerated: true, Processor: processor(), OverheadMiB: overheadMiB, Namespaces: true,
	}, nil
}

// processor is what guests have of the machine's own: its vector instructions.
// Whether they get its tiles depends on Firecracker and the kernel, and no job
// is promised what isn't known.
func processor() nimbus.Capabilities {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(raw), "\n\n")
	var has []string
	for flag, word := range map[string]string{"avx2": "avx2", "avx512f": "avx512"} {
		if slices.Contains(strings.Fields(first), flag) {
			has = append(has, word)
		}
	}
	words, _ := nimbus.CapabilitiesOf(has...) // they are words
	return words
}

// find finds the programs, which must be of one version.
func (d *Driver) find(ctx context.Context) (f found, version string, err error) {
	f.firecracker, version, err = findProgram(ctx, d.cfg.Firecracker, Name)
	if err != nil {
		return f, "", err
	}
	var other string
	f.jailer, other, err = findProgram(ctx, d.cfg.Jailer, jailer.Program)
	if err != nil {
		return f, "", err
	}
	if version != other {
		return f, "", nimbus.Errorf(nimbus.CodeUnavailable, "firecracker is %s, its jailer %s", version, other).
			WithHint("install both of one release")
	}
	return f, "Firecracker " + version, nil
}

func findProgram(ctx context.Context, path, name string) (resolved, version string, err error) {
	if path == "" {
		path = name
	}
	path, err = exec.LookPath(path)
	if err != nil {
		return "", "", nimbus.Errorf(nimbus.CodeUnavailable, "%s is not installed", name).
			WithHint("install firecracker and jailer of one release: https://github.com/firecracker-microvm/firecracker/releases")
	}
	if path, err = filepath.Abs(path); err == nil {
		path, err = filepath.EvalSymlinks(path) // the jailer does, and names the jail by it
	}
	if err != nil {
		return "", "", fmt.Errorf("find %s: %w", name, err)
	}
	if version, err = versionOf(ctx, path); err != nil {
		return "", "", nimbus.Errorf(nimbus.CodeUnavailable, "%s does not start: %v", name, err).WithHint("try: %s --version", path)
	}
	return path, version, nil
}

// versionOf reads "Firecracker v1.16.1" or "Jailer v1.16.1".
func versionOf(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(out))
	if len(fields) < 2 || !strings.HasPrefix(fields[1], "v") {
		return "", errors.New("it does not say its version")
	}
	return fields[1][1:], nil
}

// TryGuest tells why KVM can't run guests of that kind here, nil if it can. That
// the device opens proves nothing: on some hosts guests run in an instruction
// emulator that gives up in the middle of a kernel's boot.
func TryGuest(ctx context.Context, firecracker string, kind Trial) error {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return errors.New("there is no /dev/kvm")
	}
	dir, err := os.MkdirTemp("", "nimbus-kvm-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	kernel, config := filepath.Join(dir, "trial.elf"), filepath.Join(dir, "trial.json")
	raw, err := json.Marshal(map[string]any{
		"boot-source":    map[string]any{"kernel_image_path": kernel},
		"machine-config": map[string]any{"vcpu_count": 1, "mem_size_mib": 32},
		"drives":         []any{},
	})
	if err != nil {
		return fmt.Errorf("write trial: %w", err)
	}
	if err := errors.Join(os.WriteFile(kernel, TrialKernel(kind), 0o600), os.WriteFile(config, raw, 0o600)); err != nil {
		return fmt.Errorf("write trial: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, firecracker, "--no-api", "--config-file", config, "--level", "Off").Output()
	switch {
	case ctx.Err() != nil:
		return errors.New("a trial guest did not end under KVM")
	case !bytes.Contains(out, []byte(TrialWord)):
		return fmt.Errorf("a trial guest said nothing under KVM (Firecracker: %w)", err)
	}
	return nil
}
