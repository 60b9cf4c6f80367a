package microvm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// withParameter adds to the kernel's parameters.
type withParameter struct {
	vmm.Driver

	parameter string
}

func (w withParameter) Command(m vmm.Machine) ([]string, error) {
	m.Parameters += " " + w.parameter
	return w.Driver.Command(m)
}

// TestGuestListensOnVsock boots Debian's kernel with the parameter that machines
// of Firecracker get: the guest listens on the port, and serves none but the
// host there. QEMU's machines have no vsock, so a job asks over the loopback of
// its own kernel.
func TestGuestListensOnVsock(t *testing.T) {
	cfg := config(t)
	images, ok := cfg.Images.(image.Store)
	if !ok {
		t.Fatalf("%T is no store", cfg.Images)
	}
	module := loopbackModule(t, images)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg.Driver = withParameter{cfg.Driver, "nimbus.vsock=1024"}
	s := create(ctx, t, microvm.New(cfg))
	out, exit := runCommand(ctx, t, s, "sandbox", []string{module, testProgram(t, "vsock")}, "./vsock")
	if out != "1024: hung up\n1025: nobody listens\n" || exit.GetCode() != 0 {
		t.Errorf("%q, %v", out, exit)
	}
}

// loopbackModule takes vsock_loopback.ko out of the package that the image's
// kernel is of.
func loopbackModule(t *testing.T, images image.Store) string {
	t.Helper()
	img, err := images.Open(nimbus.DefaultImage)
	if err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(images.Dir, ".cache", "kernel", img.Manifest.Kernel+"_amd64.deb")
	testenv.Require(t, "dpkg-deb", deb)
	path := filepath.Join(t.TempDir(), "vsock_loopback.ko")
	unpack := exec.CommandContext(t.Context(), "sh", "-c",
		`dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards '*/vsock_loopback.ko' > "$2"`, "sh", deb, path)
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, strings.TrimSpace(string(out)))
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Fatalf("the package has no such module: %v", err)
	}
	return path
}
