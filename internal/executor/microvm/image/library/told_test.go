package library_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// writeLayout makes an OCI layout with an image, which has a tag and says for
// what machines it is.
func writeLayout(t *testing.T, tag, arch string, more ...layout.Option) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	must(t, err)
	more = append(more, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
	must(t, path.AppendImage(container(t, arch, layer(t, "a", "b")), more...))
	return dir
}

// TestChangedImportIsTheImagesFault: nobody but who imported it can make it
// again, so a job is told that at once.
func TestChangedImportIsTheImagesFault(t *testing.T) {
	t.Parallel()
	images := store(t)
	l := library.New(library.Config{Images: images})
	_, root, err := l.Import(t.Context(), "oci:"+writeLayout(t, "one", "amd64"), "tiny", silent)
	must(t, err)
	must(t, os.Chmod(root.Path(), 0o600))
	must(t, os.WriteFile(root.Path(), []byte("else"), 0o600))
	_, getErr := l.Get(t.Context(), "tiny", "job", silent)
	_, openErr := l.Open("tiny")
	for _, err := range []error{getErr, openErr} {
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) != "import it again: nimbus images import SOURCE --as tiny" {
			t.Errorf("%v (%s); hint %q", err, nimbus.ErrorCode(err), nimbus.ErrorHint(err))
		}
	}
	if err := l.Roots().Verify(root); !strings.Contains(nimbus.ErrorHint(err), "import it again") {
		t.Errorf("%v; hint %q", err, nimbus.ErrorHint(err))
	}
}

// TestImportOverAnAliasIsTold: jobs that say the alias get another image than
// before.
func TestImportOverAnAliasIsTold(t *testing.T) {
	t.Parallel()
	l := library.New(library.Config{Images: store(t)})
	dir := writeLayout(t, "one", "amd64")
	for name, want := range map[string]bool{"ubuntu-2404": true, "ubuntu-ours": false} {
		var told strings.Builder
		_, _, err := l.Import(t.Context(), "oci:"+dir, name, func(what string) { told.WriteString(what + "\n") })
		must(t, err)
		if got := strings.Contains(told.String(), "was an alias of docker.io/library/ubuntu:24.04"); got != want {
			t.Errorf("%s: %s", name, told.String())
		}
	}
}

// TestSourcesThatHaveNoSuchImage: each is told with what to do next.
func TestSourcesThatHaveNoSuchImage(t *testing.T) {
	t.Parallel()
	l := library.New(library.Config{Images: store(t)})
	arm := layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"})
	for source, want := range map[string][2]string{
		"oci:" + writeLayout(t, "one", "amd64") + ":nosuch": {`no image with the tag "nosuch"`, `it has the tags: "one"`},
		"oci:" + writeLayout(t, "one", "arm64", arm):        {`but for "linux/arm64"`, "--platform linux/amd64"},
		"oci:" + writeLayout(t, "one", "arm64"):             {"it is for linux/arm64", "--platform linux/amd64"},
		"oci:/nonexistent":                                  {"no OCI layout", "oci-layout and index.json"},
		"archive:/nonexistent":                              {"no such archive", "docker save"},
	} {
		_, _, err := l.Import(t.Context(), source, "tiny", silent)
		if err == nil || !strings.Contains(err.Error(), want[0]) || !strings.Contains(nimbus.ErrorHint(err), want[1]) {
			t.Errorf("%s: %v; hint %q", source, err, nimbus.ErrorHint(err))
		}
	}
}

// TestReadOnlyFolder: what would go is told without a write, and all else says
// that it can't be done there.
func TestReadOnlyFolder(t *testing.T) {
	testenv.Require(t, "root")
	images := store(t)
	l := library.New(library.Config{Images: images})
	dir := writeLayout(t, "one", "amd64")
	_, root, err := l.Import(t.Context(), "oci:"+dir, "tiny", silent)
	must(t, err)
	must(t, unix.Mount(images.Dir, images.Dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(images.Dir, unix.MNT_DETACH)) })
	must(t, unix.Mount("", images.Dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	all := rootfs.Bounds{Bytes: 1, Local: true}
	if doomed, err := l.Roots().Collect(t.Context(), all, true); err != nil || len(doomed) != 1 || doomed[0].Digest != root.Digest {
		t.Errorf("%v, %v", doomed, err)
	}
	_, gcErr := l.Roots().Collect(t.Context(), all, false)
	_, _, importErr := l.Import(t.Context(), "oci:"+dir, "other", silent)
	_, draftErr := images.Draft()
	for _, err := range []error{gcErr, importErr, draftErr} {
		if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || !strings.Contains(err.Error(), "can't be written to") || !strings.Contains(nimbus.ErrorHint(err), "--images DIR") {
			t.Errorf("%v; hint %q", err, nimbus.ErrorHint(err))
		}
	}
}
