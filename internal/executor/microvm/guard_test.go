package microvm_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
)

// processesOf are those whose command lines name a folder.
func processesOf(t *testing.T, dir string) map[int]string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(raw, []byte(dir)) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		found[pid] = string(raw)
	}
	return found
}

// TestMachineEndsWithItsShim kills the shim of a machine, of which no agent
// renews anything any more: a machine that went on would run beside the one that
// its job is given next.
func TestMachineEndsWithItsShim(t *testing.T) {
	e := microvm.New(config(t))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sp := spec(t)
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	shim, machines := 0, 0
	for pid, line := range processesOf(t, sp.Dir) {
		switch {
		case strings.Contains(line, "--serve"):
			shim = pid
		case strings.HasPrefix(filepath.Base(line), "qemu-"), strings.Contains(line, "\x00-M\x00"):
			machines++
		}
	}
	if shim == 0 || machines == 0 {
		t.Fatalf("shim %d, %d machines: %v", shim, machines, processesOf(t, sp.Dir))
	}
	if err := unix.Kill(shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(processesOf(t, sp.Dir)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("outlived its shim: %v", processesOf(t, sp.Dir))
		}
	}
}
