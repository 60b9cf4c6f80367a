package host_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	blank "github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// containerLayout is an image with one program in it, and all that an image can
// say of how it wants to be run.
func containerLayout(t *testing.T, program []byte) (dir string) {
	t.Helper()
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	must(t, w.WriteHeader(&tar.Header{Name: "opt/tool/job", Mode: 0o755, Size: int64(len(program))}))
	_, err := w.Write(program)
	must(t, errors.Join(err, w.Close()))
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	must(t, err)
	img, err := mutate.AppendLayers(blank.Image, layer)
	must(t, err)
	cfg, err := img.ConfigFile()
	must(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Config.Env = []string{"PATH=/opt/tool", "LESSON=image", "NAME=image"}
	cfg.Config.User, cfg.Config.WorkingDir = "1234", "/srv"
	cfg.Config.Entrypoint, cfg.Config.Cmd = []string{"/no/entrypoint"}, []string{"none"}
	img, err = mutate.ConfigFile(img, cfg)
	must(t, err)
	dir = t.TempDir()
	path, err := layout.Write(dir, blank.Index)
	must(t, err)
	must(t, path.AppendImage(img))
	return dir
}

// TestImageEnvironment: what a container image sets is in the environment of a
// job in a microVM, the command is looked up by its PATH, and what the job sets
// counts more. Its user and folder don't count, as docs/images.md says.
func TestImageEnvironment(t *testing.T) {
	testenv.Require(t, "root", "qemu", "nft", "mke2fs", "tar2sqfs")
	images := image.Store{Dir: t.TempDir()}
	must(t, os.Symlink(filepath.Join(imagetest.Runner(t).Dir, nimbus.DefaultImage), filepath.Join(images.Dir, nimbus.DefaultImage)))
	must(t, os.Chmod(filepath.Dir(images.Dir), 0o755)) //nolint:gosec // the monitor, which is nobody, must get there
	_, _, err := library.New(library.Config{Images: images}).Import(t.Context(), "oci:"+containerLayout(t, jobProgram(t)), "lesson", func(string) {})
	must(t, err)

	p, dir := startPlane(t), t.TempDir()
	startConfigured(t, p, host.Config{
		Data: dir, VMM: "qemu", Images: images.Dir, Executors: []string{nimbus.ExecutorMicroVM}, Programs: programsInPath, Log: logger(t),
	})
	j := p.submit(t, "", func(s *scheduler.Submission) {
		s.Class = nimbus.Class{Executor: nimbus.ExecutorMicroVM, Image: "lesson", CPUs: 1, MemoryMiB: 384}
		s.Spec.Command, s.Spec.Env = []string{"job", "who"}, map[string]string{"NAME": "job"}
	})
	j = p.awaitFor(t, 4*time.Minute, j.ID, "finished", over)
	if got := p.log(t, j); j.Result != nimbus.ResultSuccess || got != "image job 0 /workspace <nil>\n" {
		t.Errorf("%s, %+v, log %q", j.Result, j.Reason, got)
	}
	empty(t, dir)
}
