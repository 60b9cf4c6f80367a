// Package gputest is a machine with eight GPUs that aren't there: nimbus-nvml
// with NVIDIA's own mock of a DGX A100 in it, and descriptions of devices that
// leave a trace in a container.
package gputest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/driver"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// Machine is one.
type Machine struct {
	Dir     string // has the helper in it, by its own name
	Program string // the helper
	CDI     string // the folder of descriptions
	state   string
}

// Profile is what its GPUs are asked for with, SliceProfile their slices.
const (
	Profile      = "mock-nvidia-a100-sxm4-40gb"
	SliceProfile = "1g.5gb"
)

// ID is the UUID of one of its GPUs, SliceID of a slice of one.
func ID(gpu int) string { return fmt.Sprintf("GPU-00000000-0000-4000-8000-%012d", gpu) }
func SliceID(gpu, slice int) string {
	return fmt.Sprintf("MIG-00000000-0000-4000-8%03d-%012d", slice, gpu)
}

// New builds the helper, which needs a C compiler, and describes the devices. All
// GPUs are sound and idle.
func New(t testing.TB) *Machine {
	t.Helper()
	testenv.Require(t, "gcc")
	dir := t.TempDir()
	helper := filepath.Join(dir, "helper", "nimbus-nvml")
	build := exec.Command("go", "build", "-o", helper, "github.com/nimbus-ci/nimbus/cmd/nimbus-nvml")
	build.Env = append(os.Environ(), "CGO_ENABLED=1", "CGO_CFLAGS=-O2 -Wno-deprecated-declarations")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := &Machine{Dir: dir, Program: filepath.Join(dir, "nimbus-nvml"), CDI: filepath.Join(dir, "cdi"), state: filepath.Join(dir, "state.json")}
	m.Set(t, driver.MockState{})
	script := fmt.Sprintf("#!/bin/sh\nexec %s -mock %s \"$@\"\n", helper, m.state)
	if err := os.WriteFile(m.Program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m.Restore(t)
	return m
}

// Flags are what a docker daemon is started with to find the descriptions, if it is
// one that looks for any.
func (m *Machine) Flags(t testing.TB) []string {
	t.Helper()
	help, err := exec.Command("dockerd", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	if !bytes.Contains(help, []byte("--cdi-spec-dir")) {
		return nil
	}
	return []string{"--cdi-spec-dir", m.CDI}
}

// Set has the GPUs be in a state from now on.
func (m *Machine) Set(t testing.TB, s driver.MockState) {
	t.Helper()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := wholefile.Write(m.state, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Restore writes the description as NVIDIA's toolkit does, with harmless devices of
// the machine's for what isn't there. Half of the GPUs have their UUID for a name,
// the others their number.
func (m *Machine) Restore(t testing.TB) {
	t.Helper()
	type edits map[string]any
	node := func(path string) edits { return edits{"path": path, "hostPath": "/dev/null", "permissions": "rw"} }
	device := func(name, path, variable string) edits {
		return edits{"name": name, "containerEdits": edits{"deviceNodes": []edits{node(path)}, "env": []string{variable + "=1"}}}
	}
	var devices []edits
	for k := range 8 {
		name := ID(k)
		if k%2 == 1 {
			name = fmt.Sprint(k)
		}
		devices = append(devices, device(name, fmt.Sprintf("/dev/nvidia%d", k), fmt.Sprintf("MOCK_GPU_%d", k)))
		for s := range 7 {
			devices = append(devices, device(fmt.Sprintf("%d:%d", k, s), fmt.Sprintf("/dev/nvidia%d-%d", k, s), fmt.Sprintf("MOCK_GPU_%d_%d", k, s)))
		}
	}
	library := filepath.Join(m.Dir, "libcuda.so.1")
	if err := os.WriteFile(library, []byte("not a library"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Describe(t, map[string]any{
		"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices,
		"containerEdits": edits{
			"env": []string{"NVIDIA_VISIBLE_DEVICES=void"}, "deviceNodes": []edits{node("/dev/nvidiactl")},
			"mounts": []edits{{"hostPath": library, "containerPath": "/usr/lib/libcuda.so.1", "options": []string{"ro", "nosuid", "nodev", "bind"}}},
		},
	})
}

// Describe writes another description in its place.
func (m *Machine) Describe(t testing.TB, description map[string]any) {
	t.Helper()
	raw, err := json.Marshal(description)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(m.CDI, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.CDI, "nvidia.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
}
