package microvm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
)

// folderOf makes a library of container images beside a kernel.
func folderOf(t *testing.T, cfg *microvm.Config) *library.Library {
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
	return library.New(library.Config{Images: images})
}

// bring imports an image of one entry.
func bring(ctx context.Context, t *testing.T, l *library.Library, name string, entry tar.Header) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&entry), w.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Import(ctx, "oci:"+writeLayout(t, layer), name, func(string) {}); err != nil {
		t.Fatal(err)
	}
}

// counter counts what a log says.
type counter struct {
	slog.Handler

	boots, givenUp atomic.Int32
}

func (c *counter) Handle(ctx context.Context, r slog.Record) error {
	switch {
	case strings.HasPrefix(r.Message, "boot once more"), strings.HasPrefix(r.Message, "make a machine ready"):
		c.boots.Add(1)
	case strings.HasPrefix(r.Message, "no machine is made ready until"):
		c.givenUp.Add(1)
	}
	return c.Handler.Handle(ctx, r)
}

// TestFaultOfImage: that no machine starts from an image is told as the image's,
// at once, and the pool makes none ready until the image is another one.
func TestFaultOfImage(t *testing.T) {
	cfg := config(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l := folderOf(t, &cfg)
	said := &counter{Handler: cfg.Log.Handler()}
	cfg.Images, cfg.Log, cfg.Warm = l, slog.New(said), microvm.WarmConfig{Machines: 1, MemoryMiB: 1024}
	e := microvm.New(cfg)
	class := spec(t).Class
	for name, entry := range map[string]tar.Header{
		"dev": {Name: "dev"}, "proc": {Name: "proc", Typeflag: tar.TypeSymlink, Linkname: "/"}, "etc": {Name: "etc"}, "workspace": {Name: "workspace"},
	} {
		entry.Mode = 0o755
		bring(ctx, t, l, name, entry)
		asked := spec(t)
		asked.Class.Image = name
		_, err := e.Create(ctx, asked)
		var fault *executor.ImageError
		if !errors.As(err, &fault) || !strings.Contains(fault.Error(), "image "+name+": ") || !strings.Contains(fault.Error(), "/"+name+": ") || nimbus.ErrorHint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		class = asked.Class
	}
	if n := said.boots.Load(); n != 0 {
		t.Errorf("%d of them were booted once more", n)
	}
	keepWarm(ctx, t, e)
	for said.givenUp.Load() < 4 { // of each class there was a job
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the pool has given up %d classes", said.givenUp.Load())
		}
	}
	const rounds = 3 * 5 * time.Second // of the pool
	<-time.After(rounds)
	if n := said.givenUp.Load() + said.boots.Load(); n != 4 {
		t.Errorf("the pool has tried %d times", n)
	}
	bring(ctx, t, l, class.Image, tar.Header{Name: class.Image, Typeflag: tar.TypeDir, Mode: 0o755})
	awaitWarm(ctx, t, e, class, 1)
}
