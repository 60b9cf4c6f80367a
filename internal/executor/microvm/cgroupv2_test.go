//go:build cgroupv2

package microvm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
)

// casesVariable has the executor docker tried in a machine of its own: a pattern
// of tests, as -run has them. See docs/testing.md.
const casesVariable = "NIMBUS_CGROUP_V2"

// inMachine runs those tests where nothing but cgroup v2 is. They build programs,
// which here are built already.
const inMachine = `
set -e
# Daemons of tests keep what is theirs in /tmp, over which they lay file systems.
mkdir /var/lib/docker/tmp && mount --bind /var/lib/docker/tmp /tmp && chmod 1777 /tmp
mkdir -p /usr/local/bin /work && cd /work
cat > /usr/local/bin/go <<'END'
#!/bin/sh
out=$3; shift 3
for package; do cp "/workspace/${package##*/}" "$out"; done
END
chmod +x /usr/local/bin/go
stat -fc %T /sys/fs/cgroup
NIMBUS_TEST_REQUIRE=all /workspace/docker.test -test.v -test.timeout 2h -test.run "$CASES"
`

// TestDockerOnCgroupV2 runs tests of the executor docker in a machine of QEMU's, whose
// kernel has cgroup v2 alone: for machines that have v1. It is slow, and no part of
// make test.
func TestDockerOnCgroupV2(t *testing.T) {
	cases := os.Getenv(casesVariable)
	if cases == "" {
		t.Fatalf("%s names no tests", casesVariable)
	}
	if _, err := regexp.Compile(cases); err != nil {
		t.Fatal(err)
	}
	cfg := config(t)
	recipe := debian.Docker(imagetest.Store(t), "", debian.FetchCached)
	recipe.Name, recipe.Runner = "docker-tests", nil
	recipe.Packages = slices.Concat(recipe.Packages, []string{"busybox-static", "e2fsprogs", "iproute2", "kmod", "mount", "nftables", "procps", "util-linux"})
	recipe.Modules = slices.Concat(recipe.Modules, []string{"loop"})
	recipe.Progress = func(what string) { t.Log(what) }
	if _, err := debian.Build(t.Context(), recipe); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	tests := exec.Command("go", "test", "-c", "-o", filepath.Join(bin, "docker.test"), "../docker")
	tests.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := tests.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := []string{filepath.Join(bin, "docker.test"), cfg.Shim, cfg.Guest, testProgram(t, "escape")}
	cfg.Images, cfg.DiskMiB = imagetest.Store(t), 16<<10
	const limit = 2 * time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	sp := spec(t)
	sp.Deadline, sp.Class.Image, sp.Class.MemoryMiB = limit, recipe.Name, 3<<10
	s, err := microvm.New(cfg).Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	out, exit := runCommand(ctx, t, s, "v2", files, "bash", "-c", "CASES='"+cases+"'\ndocker info >/dev/null\n"+inMachine)
	t.Log(out)
	if exit.GetCode() != 0 || exit.Code == nil {
		t.Errorf("they ended with %v", exit)
	}
}
