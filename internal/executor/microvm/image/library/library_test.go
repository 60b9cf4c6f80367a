package library_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// store has a base image of empty files: nothing here boots.
func store(t *testing.T) image.Store {
	t.Helper()
	testenv.Require(t, "tar2sqfs")
	s := image.Store{Dir: t.TempDir()}
	d, err := s.Draft()
	must(t, err)
	for _, path := range []string{d.Kernel(), d.Modules(), d.Root()} {
		must(t, os.WriteFile(path, nil, 0o600))
	}
	_, err = d.Publish(image.Manifest{Name: nimbus.DefaultImage})
	must(t, err)
	return s
}

// layer packs files, by their names; one whose text begins with "->" is a link,
// with "==" a hard one.
func layer(t testing.TB, files ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o640, Uid: 7, Gid: 8, ModTime: time.Unix(1e9, 0), Size: int64(len(files[i+1]))}
		if kind, ok := map[string]byte{"->": tar.TypeSymlink, "==": tar.TypeLink}[files[i+1][:min(2, len(files[i+1]))]]; ok {
			h.Typeflag, h.Linkname, h.Size = kind, files[i+1][2:], 0
		}
		must(t, w.WriteHeader(h))
		if h.Size > 0 {
			_, err := io.WriteString(w, files[i+1])
			must(t, err)
		}
	}
	must(t, w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	return l
}

func container(t testing.TB, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	must(t, err)
	cfg, err := img.ConfigFile()
	must(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config.Env = "linux", arch, []string{"PATH=/opt/bin:/bin", "VERSION=3.12"}
	img, err = mutate.ConfigFile(img, cfg)
	must(t, err)
	return img
}

func tiny(t testing.TB) v1.Image {
	t.Helper()
	return container(t, "amd64", layer(t, "etc/release", "one\n", "bin/sh", "#!", "gone", "x"), layer(t, ".wh.gone", "", "bin/bash", "==bin/sh", "usr/bin", "->/bin"))
}

// serve starts a registry with an image in it, and counts the blobs it gave.
func serve(t *testing.T, img v1.Image) (reference string, blobs *atomic.Int32, answer *atomic.Int32) {
	t.Helper()
	blobs, answer = new(atomic.Int32), new(atomic.Int32)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := answer.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	reference = strings.TrimPrefix(s.URL, "http://") + "/acme/tiny:1"
	push(t, reference, img)
	return reference, blobs, answer
}

func push(t *testing.T, reference string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	must(t, err)
	must(t, remote.Write(ref, img))
}

func silent(string) {}

// naming allows the registries of references, which are on this machine.
func naming(references ...string) (p library.Policy) {
	for _, reference := range references {
		registry, _, _ := strings.Cut(reference, "/")
		p.Allow = append(p.Allow, registry+"/*")
	}
	return p
}

// TestEverySourceGivesTheSameBytes, in any folder and at any time.
func TestEverySourceGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	img := tiny(t)
	reference, _, _ := serve(t, img)
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, path.AppendImage(img))
	saved := filepath.Join(t.TempDir(), "saved.tar")
	tag, err := name.NewTag("acme/tiny:1")
	must(t, err)
	must(t, tarball.WriteToFile(saved, tag, img))
	packed := filepath.Join(t.TempDir(), "layout.tar")
	f, err := os.Create(packed)
	must(t, err)
	w := tar.NewWriter(f)
	must(t, errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close()))

	digests := map[string][]string{}
	for _, source := range []string{"oci:" + dir, "archive:" + saved, "archive:" + packed, "docker://" + reference, "oci:" + dir} {
		l := library.New(library.Config{Images: store(t)}) // each in a folder of its own, one after another
		_, root, err := l.Import(t.Context(), source, "tiny", silent)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		must(t, l.Roots().Verify(root))
		digests[root.Digest] = append(digests[root.Digest], source)
		if root.Files != 9 || len(root.Env) != 2 || !strings.HasPrefix(root.SourceDigest, "sha256:") {
			t.Errorf("%s: %+v", source, root.Manifest)
		}
		drafts, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(root.Path())), ".*-*"))
		if len(drafts) > 0 {
			t.Errorf("left: %q", drafts)
		}
	}
	if len(digests) != 1 {
		t.Errorf("got %v", digests)
	}
}

// TestOneConversionForAll: jobs that want the same image at once wait for one
// conversion, are told of it, and the next ones ask the registry nothing.
func TestOneConversionForAll(t *testing.T) {
	t.Parallel()
	reference, blobs, answer := serve(t, tiny(t))
	l := library.New(library.Config{Images: store(t), Policy: naming(reference)})
	var jobs sync.WaitGroup
	var told atomic.Int32
	for i := range 8 {
		jobs.Go(func() {
			var once sync.Once
			img, err := l.Get(t.Context(), reference, "job-"+string(rune('a'+i)), func(string) { once.Do(func() { told.Add(1) }) })
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := os.Stat(img.Root()); err != nil || img.Tools() == "" || len(img.Env()) != 2 || img.Env()[1] != "VERSION=3.12" {
				t.Errorf("%v %q %v", err, img.Tools(), img.Env())
			}
		})
	}
	jobs.Wait()
	if got := blobs.Load(); got != 3 { // a configuration and two layers
		t.Errorf("%d blobs were fetched", got)
	}
	if told.Load() == 0 {
		t.Error("nobody was told anything")
	}
	answer.Store(http.StatusInternalServerError)
	if _, err := l.Get(t.Context(), reference, "later", silent); err != nil {
		t.Errorf("from the host's own: %v", err)
	}
	if users := l.Users("job-"); len(users) != 8 {
		t.Errorf("in use by %q", users)
	}
}

// TestTagMoves: an old answer of the registry is asked for again, and used on
// where the registry is away.
func TestTagMoves(t *testing.T) {
	t.Parallel()
	reference, _, answer := serve(t, tiny(t))
	l := library.New(library.Config{Images: store(t), Policy: naming(reference), Refresh: time.Nanosecond})
	first, err := l.Get(t.Context(), reference, "a", silent)
	must(t, err)
	push(t, reference, container(t, "amd64", layer(t, "etc/release", "two\n")))
	second, err := l.Get(t.Context(), reference, "b", silent)
	must(t, err)
	if first.Root() == second.Root() {
		t.Error("the tag moved, the image did not")
	}
	answer.Store(http.StatusServiceUnavailable)
	said := ""
	third, err := l.Get(t.Context(), reference, "c", func(what string) { said = what })
	if err != nil || third.Root() != second.Root() || !strings.Contains(said, "could not be looked up again") {
		t.Errorf("%v, %q, said %q", err, third.Root(), said)
	}
}

// TestRefusals: each has its code and tells what to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	good, _, _ := serve(t, tiny(t))
	arm, _, _ := serve(t, container(t, "arm64", layer(t, "a", "b")))
	private, _, answer := serve(t, tiny(t))
	answer.Store(http.StatusUnauthorized)
	hostile, _, _ := serve(t, container(t, "amd64", layer(t, "../../evil", "x")))
	images := store(t)
	policy := naming(good, arm, private, hostile, "127.0.0.1:1/acme/a:1")
	policy.Deny = []string{"*/secret/*"}
	l := library.New(library.Config{Images: images, Aliases: map[string]string{"ours": good}, Policy: policy})
	registry, _, _ := strings.Cut(good, "/")
	for name, want := range map[string]nimbus.Code{
		"no-such-image":          nimbus.CodeNotFound, // never looked for elsewhere
		"python:3.12":            nimbus.CodeForbidden,
		"python-312":             nimbus.CodeForbidden, // an alias is no way around
		registry + "/secret/x:1": nimbus.CodeForbidden,
		registry + "/acme/no:1":  nimbus.CodeNotFound,
		private:                  nimbus.CodeNotFound,
		arm:                      nimbus.CodeInvalid,
		hostile:                  nimbus.CodeInvalid,
		"127.0.0.1:1/acme/a:1":   nimbus.CodeUnavailable,
		"daemon:python":          nimbus.CodeForbidden, // no way to other sources of the host
		"oci:/etc":               nimbus.CodeForbidden,
		"archive:/etc/passwd":    nimbus.CodeForbidden,
	} {
		if _, err := l.Get(t.Context(), name, "job", silent); nimbus.ErrorCode(err) != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if _, err := l.Get(t.Context(), "ours", "job", silent); err != nil {
		t.Errorf("by alias: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(images.Dir, library.RootsDir, ".*-*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestLayerThatIsNotWhatItShouldBe is caught while it is read.
func TestLayerThatIsNotWhatItShouldBe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	must(t, err)
	img := container(t, "amd64", layer(t, "a", "right"))
	must(t, path.AppendImage(img))
	layers, err := img.Layers()
	must(t, err)
	digest, err := layers[0].Digest()
	must(t, err)
	other, err := layer(t, "a", "wrong").Compressed()
	must(t, err)
	raw, err := io.ReadAll(other)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", digest.Hex), raw, 0o600))
	l := library.New(library.Config{Images: store(t)})
	if _, _, err := l.Import(t.Context(), "oci:"+dir, "x", silent); nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(err.Error(), "digest") {
		t.Errorf("got %v", err)
	}
}

// TestLayerPackedAnew: a blob that holds what it should is refused all the same
// where it is not the one that the manifest names.
func TestLayerPackedAnew(t *testing.T) {
	t.Parallel()
	img := container(t, "amd64", layer(t, "a", "right"))
	layers, err := img.Layers()
	must(t, err)
	digest, err := layers[0].Digest()
	must(t, err)
	packed, err := layers[0].Compressed()
	must(t, err)
	right, err := io.ReadAll(packed)
	must(t, err)
	plain, err := layers[0].Uncompressed()
	must(t, err)
	tarred, err := io.ReadAll(plain)
	must(t, err)
	var other bytes.Buffer
	w, err := gzip.NewWriterLevel(&other, gzip.NoCompression)
	must(t, err)
	_, err = w.Write(tarred)
	must(t, errors.Join(err, w.Close()))
	// A header of gzip has a place for the system that packed, which unpacks to
	// nothing: as many bytes, another digest.
	marked := bytes.Clone(right)
	marked[9] ^= 0x7f
	for name, blob := range map[string][]byte{
		"as it was": right, "otherwise": other.Bytes(), "with another mark": marked,
		"and more": append(bytes.Clone(right), right...), "nothing of it": {}, "not at all": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, err := layout.Write(dir, empty.Index)
			must(t, err)
			must(t, path.AppendImage(img))
			lies := filepath.Join(dir, "blobs", "sha256", digest.Hex)
			must(t, os.Remove(lies))
			if blob != nil {
				must(t, os.WriteFile(lies, blob, 0o600))
			}
			_, _, err = library.New(library.Config{Images: store(t)}).Import(t.Context(), "oci:"+dir, "x", silent)
			if name == "as it was" {
				must(t, err)
			} else if nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(err.Error(), "whole") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestChangedRootIsMadeAgain: nothing boots from a file that was tampered with.
func TestChangedRootIsMadeAgain(t *testing.T) {
	t.Parallel()
	reference, blobs, _ := serve(t, tiny(t))
	images := store(t)
	l := library.New(library.Config{Images: images, Policy: naming(reference)})
	img, err := l.Get(t.Context(), reference, "a", silent)
	must(t, err)
	before := blobs.Load()
	must(t, os.Chmod(img.Root(), 0o600))
	f, err := os.OpenFile(img.Root(), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{0xff}, 200)
	must(t, errors.Join(err, f.Close()))
	again, err := l.Get(t.Context(), reference, "b", silent)
	must(t, err)
	if blobs.Load() == before {
		t.Error("it was used as it was")
	}
	fresh := rootfs.Open(filepath.Join(images.Dir, library.RootsDir))
	roots, broken := fresh.List()
	if len(roots) != 1 || len(broken) > 0 || again.Root() != roots[0].Path() {
		t.Fatalf("%v, %v", roots, broken)
	}
	must(t, fresh.Verify(roots[0]))
}

// TestRoomIsMade of images that no sandbox uses, where a disk is fuller than it
// should be.
func TestRoomIsMade(t *testing.T) {
	t.Parallel()
	images := store(t)
	used, _, _ := serve(t, tiny(t))
	unused, blobs, _ := serve(t, container(t, "amd64", layer(t, "else", "where")))
	l := library.New(library.Config{Images: images, Policy: naming(used, unused)})
	if freed, err := l.Reclaim(t.Context(), 1); freed != 0 || err != nil {
		t.Errorf("before there is anything: %d, %v", freed, err)
	}
	_, err := l.Get(t.Context(), used, "a", silent)
	must(t, err)
	_, err = l.Get(t.Context(), unused, "b", silent)
	must(t, err)
	must(t, l.Release("b"))
	if freed, err := l.Reclaim(t.Context(), 100); freed != 0 || err != nil {
		t.Errorf("though the disk isn't full: %d, %v", freed, err)
	}
	freed, err := l.Reclaim(t.Context(), 0) // any disk has something on it
	must(t, err)
	roots, broken := rootfs.Open(filepath.Join(images.Dir, library.RootsDir)).List()
	if freed <= 0 || len(roots) != 1 || len(broken) > 0 || roots[0].Source != used {
		t.Errorf("freed %d, left %+v, %v", freed, roots, broken)
	}
	before := blobs.Load()
	if _, err := l.Get(t.Context(), unused, "c", silent); err != nil || blobs.Load() == before {
		t.Errorf("it is not had again: %v", err)
	}
}

// TestLastWaiterEndsTheConversion, and leaves nothing.
func TestLastWaiterEndsTheConversion(t *testing.T) {
	t.Parallel()
	hangs := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case hangs <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	images := store(t)
	reference := strings.TrimPrefix(s.URL, "http://") + "/a/b:1"
	l := library.New(library.Config{Images: images, Policy: naming(reference)})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-hangs; cancel() }()
	if _, err := l.Get(ctx, reference, "job", silent); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for {
		left, _ := filepath.Glob(filepath.Join(images.Dir, library.RootsDir, ".draft-*"))
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("left: %q", left)
		}
	}
}
