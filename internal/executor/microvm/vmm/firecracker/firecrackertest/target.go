// Package firecrackertest tries things with Firecracker: with a double of it that
// is always there, and with the real one where it is installed.
package firecrackertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
)

// Target is a Firecracker.
type Target struct {
	Name                string // "double" or "installed"
	Firecracker, Jailer string
	// Shim is nimbus-shim, built from this source.
	Shim string
	// Guests tells that guests answer on vsock, as the double's do; the real one
	// has only trial guests to run.
	Guests bool
}

// programs are built once for all tests of a process.
type programs struct {
	dir string
	err error
	out []byte
}

var built = sync.OnceValue(func() (p programs) {
	if p.dir, p.err = os.MkdirTemp("", "nimbus-firecracker-"); p.err != nil {
		return p
	}
	const module, here = "github.com/nimbus-ci/nimbus", "/internal/executor/microvm/vmm/firecracker/firecrackertest"
	build := exec.CommandContext(context.Background(), "go", "build", "-o", p.dir+"/",
		module+here+"/firecracker", module+here+"/jailer", module+"/cmd/nimbus-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	p.out, p.err = build.CombinedOutput()
	return p
})

// building tells that somebody wanted them.
var building atomic.Bool

// Main runs a package's tests and removes what they built.
func Main(m *testing.M) {
	code := m.Run()
	Clean()
	os.Exit(code)
}

// Clean removes what was built, for a package with a main function of its own.
func Clean() {
	if building.Load() {
		os.RemoveAll(built().dir)
	}
}

// Double builds the double.
func Double(t *testing.T) Target {
	t.Helper()
	building.Store(true)
	p := built()
	if p.err != nil {
		t.Fatalf("build the double: %v\n%s", p.err, p.out)
	}
	return Target{
		Name: "double", Guests: true,
		Firecracker: filepath.Join(p.dir, "firecracker"), Jailer: filepath.Join(p.dir, "jailer"), Shim: filepath.Join(p.dir, "nimbus-shim"),
	}
}

// Installed finds the real one in PATH, and skips the test where it is missing
// or runs no guest at all.
func Installed(t *testing.T) Target {
	t.Helper()
	target := Target{Name: "installed", Shim: Double(t).Shim}
	var err error
	if target.Firecracker, err = exec.LookPath("firecracker"); err == nil {
		target.Jailer, err = exec.LookPath("jailer")
	}
	if err != nil {
		t.Skipf("the real Firecracker is not tried: %v (README.md tells how to get it)", err)
	}
	if err := firecracker.TryGuest(t.Context(), target.Firecracker, firecracker.TrialPlain); err != nil {
		t.Skipf("the real Firecracker is not tried: %v", err)
	}
	return target
}
