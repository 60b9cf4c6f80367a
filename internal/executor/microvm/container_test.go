package microvm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// containerLayout makes a container image in a folder: Debian's files without
// what Nimbus puts there, and a layer over them.
func containerLayout(t *testing.T, images image.Store) string {
	t.Helper()
	testenv.Require(t, "sqfs2tar")
	base, err := images.Open(nimbus.DefaultImage)
	if err != nil {
		t.Fatal(err)
	}
	debian := filepath.Join(t.TempDir(), "debian.tar")
	f, err := os.Create(debian)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sqfs2tar", base.Root())
	cmd.Stdout = f
	if err := errors.Join(cmd.Run(), f.Close()); err != nil {
		t.Fatal(err)
	}
	var over bytes.Buffer
	w := tar.NewWriter(&over)
	for _, h := range []tar.Header{
		{Name: "usr/local/bin/.wh.nimbus-runner"}, {Name: "opt/.wh.runner"}, {Name: "home/.wh.runner"}, {Name: ".wh.tmp"},
		{Name: "srv/owned", Uid: 1234, Gid: 4321, Mode: 0o640},
		{Typeflag: tar.TypeLink, Name: "srv/linked", Linkname: "srv/owned"},
		{Typeflag: tar.TypeChar, Name: "srv/null", Devmajor: 1, Devminor: 3, Mode: 0o666},
		{Name: "srv/tool", Mode: 0o4755, PAXRecords: map[string]string{"SCHILY.xattr.user.nimbus": "kept"}},
	} {
		h.Mode = max(h.Mode, 0o600)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	first, err := tarball.LayerFromFile(debian, tarball.WithCompressionLevel(1))
	if err != nil {
		t.Fatal(err)
	}
	second, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(over.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return writeLayout(t, first, second)
}

func writeLayout(t *testing.T, layers ...v1.Layer) string {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config.Env = "linux", "amd64", []string{"LESSON=one"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lesson is a library with a container image of that name.
func lesson(ctx context.Context, t *testing.T, cfg *microvm.Config) (*library.Library, rootfs.Root) {
	t.Helper()
	base, ok := cfg.Images.(image.Store)
	if !ok {
		t.Fatalf("%T is no store", cfg.Images)
	}
	images := image.Store{Dir: t.TempDir()}
	if err := os.Symlink(filepath.Join(base.Dir, nimbus.DefaultImage), filepath.Join(images.Dir, nimbus.DefaultImage)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(images.Dir), 0o755); err != nil { //nolint:gosec // the monitor, which is nobody, must get there
		t.Fatal(err)
	}
	l := library.New(library.Config{Images: images})
	_, root, err := l.Import(ctx, "oci:"+containerLayout(t, base), "lesson", func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	cfg.Images = l
	return l, root
}

// checkLesson looks at a machine of the container image: its files are as its
// layers have them, the guest is not in it, and GitHub's runner is there all the
// same.
func checkLesson(ctx context.Context, t *testing.T, s executor.Sandbox) {
	t.Helper()
	if f, ok := s.(executor.Furnished); !ok || !slices.Equal(f.Env(), []string{"LESSON=one"}) {
		t.Errorf("the image's variables: %v", f)
	}
	out, exit := run(ctx, t, s, `
		cd / && stat -c '%n %u %g %a %h' srv/owned srv/linked
		stat -c '%F %t:%T' /srv/null; echo gone > /srv/null && echo swallowed
		stat -c '%a' /srv/tool
		test -x `+runner.Program+` && test -s `+runner.Inside+` && touch `+runner.OfficialDir+`/new && echo runner
		stat -c '%a' /tmp
		touch /usr/new /tmp/new && echo writable
		ls -a /init /modules /tools 2>/dev/null | wc -l`)
	want := "srv/owned 1234 4321 640 2\nsrv/linked 1234 4321 640 2\ncharacter special file 1:3\nswallowed\n4755\nrunner\n1777\nwritable\n0\n"
	if out != want || exit.GetCode() != 0 {
		t.Errorf("got %q, %v", out, exit)
	}
}

// TestContainerImage boots a machine from a container image.
func TestContainerImage(t *testing.T) {
	cfg := config(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, root := lesson(ctx, t, &cfg)
	e := microvm.New(cfg)
	sp := spec(t)
	sp.Class.Image = "lesson"
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	checkLesson(ctx, t, s)
	removed, err := l.Roots().Collect(ctx, rootfs.Bounds{Bytes: 1, Local: true}, false)
	if err != nil || len(removed) > 0 {
		t.Errorf("removed what is in use: %v, %v", removed, err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	removed, err = l.Roots().Collect(ctx, rootfs.Bounds{Bytes: 1, Local: true}, false)
	if err != nil || len(removed) != 1 || removed[0].Digest != root.Digest {
		t.Errorf("after its end: %v, %v", removed, err)
	}
	var refused *executor.ImageError
	if _, err := e.Create(ctx, sp); !errors.As(err, &refused) || !strings.Contains(err.Error(), "lesson") {
		t.Errorf("an image that is gone: %v", err)
	}
}

// TestSnapshotOfAContainerImage saves a machine of a container image, and makes
// others of it: for a job, and to wait for one.
func TestSnapshotOfAContainerImage(t *testing.T) {
	cfg := config(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	l, _ := lesson(ctx, t, &cfg)
	cfg.Warm = microvm.WarmConfig{Machines: 1, MemoryMiB: 1024}
	e := microvm.New(cfg)
	class := spec(t).Class
	class.Image = "lesson"
	if _, err := e.EnsureSnapshot(ctx, class); err != nil {
		t.Fatal(err)
	}
	stop := keepWarm(ctx, t, e)
	for _, origin := range []nimbus.Origin{nimbus.OriginRestored, nimbus.OriginWarm} {
		sp := spec(t)
		sp.Class = class
		s, err := e.Create(ctx, sp)
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := s.(executor.Dated); !ok || d.Origin() != origin {
			t.Errorf("the machine is not %s", origin)
		}
		checkLesson(ctx, t, s)
		if err := s.Destroy(ctx); err != nil {
			t.Error(err)
		}
		awaitWarm(ctx, t, e, class, 1)
	}
	stop()
	removed, err := l.Roots().Collect(ctx, rootfs.Bounds{Bytes: 1, Local: true}, false)
	if err != nil || len(removed) != 1 {
		t.Errorf("somebody still uses the image: %v, %v", removed, err)
	}
}
