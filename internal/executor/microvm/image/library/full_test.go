package library_test

import (
	"crypto/rand"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestFullDisk converts onto a disk that has no room: for what is fetched, and
// for what becomes of it. It is told as the host's fault, with what to do, and
// nothing is left of it.
func TestFullDisk(t *testing.T) {
	testenv.Require(t, "root")
	random := make([]byte, 1<<20)
	rand.Read(random)
	img := container(t, "amd64", layer(t, "random", string(random), "again", strings.Repeat("zeros", 1<<20)))
	for name, kib := range map[string]string{"while it is unpacked": "2048", "while it is written": "6656"} {
		t.Run(name, func(t *testing.T) {
			images := store(t)
			reference, _, _ := serve(t, img)
			roots := filepath.Join(images.Dir, library.RootsDir)
			must(t, unix.Mkdir(roots, 0o700))
			must(t, unix.Mount("full", roots, "tmpfs", 0, "size="+kib+"k,mode=700"))
			t.Cleanup(func() { must(t, unix.Unmount(roots, unix.MNT_DETACH)) })
			l := library.New(library.Config{Images: images})
			_, _, err := l.Import(t.Context(), "docker://"+reference, "", func(what string) { t.Log(what) })
			if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || !errors.Is(err, unix.ENOSPC) || !strings.Contains(nimbus.ErrorHint(err), "nimbus images gc") {
				t.Errorf("%v; hint %q", err, nimbus.ErrorHint(err))
			}
			var disk unix.Statfs_t
			must(t, unix.Statfs(roots, &disk))
			if used := (disk.Blocks - disk.Bfree) * uint64(disk.Bsize); used > 64<<10 {
				t.Errorf("%d bytes of the image that could not be made are left", used)
			}
		})
	}
}
