// Package runnerkittest gives tests an image that has a runner inside which is
// laid as GitHub's is, and the root file system of an image without glibc.
package runnerkittest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// packRunner lays an image's root. The libraries are the machine's own.
//
//nolint:dupword // they are the shell's words
const packRunner = `set -e
root=$1 listener=$2
lib=$root/usr/lib/$(gcc -print-multiarch)
mkdir -p $lib $root/etc/ssl/certs $root/opt/runner/bin $root/opt/runner/externals/node20/bin $root/opt/runner/externals/node20_alpine/bin
cp $listener $root/opt/runner/bin/Runner.Listener
cp -L $(command -v node) $root/opt/runner/externals/node20/bin/node
ln -s node $root/opt/runner/externals/node20/bin/nodejs
touch $root/opt/runner/externals/node20_alpine/bin/node $root/opt/runner/run.sh
echo official 9.9.9 > $root/opt/runner/NIMBUS_RUNNER
for program in $root/opt/runner/bin/Runner.Listener $root/opt/runner/externals/node20/bin/node; do
	ldd $program | grep -o '/[^ ]*' | while read -r library; do cp -nL $library $lib/; done
done
cp -L $(gcc -print-file-name=libcrypto.so.3) $lib/
echo certificates > $root/etc/ssl/certs/ca-certificates.crt
echo > $root/etc/ssl/openssl.cnf
tar -C $root -c . | tar2sqfs -q -f -c lz4 $3`

// Image returns a store with the image nimbus.DefaultImage, in which there is
// Node, and a program in the place of GitHub's listener that tells what it finds.
// Without is a library to leave out, "" for none.
func Image(t testing.TB, without string) image.Store {
	t.Helper()
	testenv.Require(t, "gcc", "node", "tar2sqfs", "sqfs2tar")
	listener := filepath.Join(t.TempDir(), "listener")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", listener, "github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit/runnerkittest/testdata/listener")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	run(t, build)
	store := image.Store{Dir: t.TempDir()}
	draft, err := store.Draft()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{draft.Kernel(), draft.Modules()} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := packRunner
	if without != "" {
		script = "tar() { rm $lib/" + without + "; command tar \"$@\"; }\n" + packRunner
	}
	run(t, exec.CommandContext(t.Context(), "/bin/bash", "-o", "pipefail", "-c", script, "bash", t.TempDir(), listener, draft.Root()))
	_, err = draft.Publish(image.Manifest{Name: nimbus.DefaultImage, Arch: runtime.GOARCH, Runner: image.OfficialPrefix + "9.9.9"})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// packMusl writes a root with busybox, the loader of musl, and a program that
// is musl's, as a tar.
const packMusl = `set -e
root=$1
mkdir -p $root/bin $root/lib $root/etc $root/tmp $root/root $root/proc $root/sys $root/dev $root/run $root/var/tmp
cp -L $(command -v busybox) $root/bin/busybox
for name in sh cat cut echo env grep head id kill ls mkdir pgrep ps rm sleep stat tail touch tr true; do ln -s busybox $root/bin/$name; done
echo 'int puts(const char *); int main(void) { puts("a tool of musl"); return 0; }' | musl-gcc -x c -o $root/bin/tool -
cp -L /lib/ld-musl-*.so.1 $root/lib/
echo root:x:0:0:root:/root:/bin/sh > $root/etc/passwd
tar -C $root -c .`

// Musl gives a daemon an image of musl's, in which no program of glibc's starts.
func Musl(t testing.TB, d *testenv.DockerDaemon, name, tag string, changes ...string) {
	t.Helper()
	testenv.Require(t, "musl-gcc", "busybox")
	importRoot(t, d, packMusl, name, tag, changes...)
}

// Bare gives a daemon an image without a shell. Where its link to one leads, the
// machine has a program.
func Bare(t testing.TB, d *testenv.DockerDaemon, name, tag string) {
	t.Helper()
	importRoot(t, d, `mkdir -p $1/etc $1/bin && ln -s /usr/bin/env $1/bin/sh && echo root:x:0:0:root:/root:/app > $1/etc/passwd && tar -C $1 -c .`, name, tag)
}

func importRoot(t testing.TB, d *testenv.DockerDaemon, script, name, tag string, changes ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script, "sh", t.TempDir())
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		t.Fatalf("make an image: %v", err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := d.Import(root, name, tag, changes...); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
