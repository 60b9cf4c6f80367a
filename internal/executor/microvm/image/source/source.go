// Package source opens container images wherever they are: in a registry, in a
// layout folder, in an archive, in a docker daemon. What they claim is checked
// against their digests while it is read.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of what describes an image.
const (
	maxLayers   = 512
	maxDocument = 8 << 20 // a manifest or configuration
	maxEnv      = 256
	maxEnvBytes = 64 << 10
)

// Image is one image for one architecture.
type Image struct {
	Reference string // as people write it
	Digest    string // of its manifest: sha256:HEX
	Arch      string
	Env       []string // KEY=VALUE

	image  v1.Image
	layers []v1.Layer
	blobs  []v1.Descriptor // what the layers are, packed; none where they lie unpacked
	diffs  []v1.Hash       // of the layers, unpacked
	packed bool            // its layers are kept as the blobs that its manifest names
	close  func()
}

// Close frees what an open image holds.
func (i *Image) Close() {
	if i.close != nil {
		i.close()
	}
}

// Opener opens images.
type Opener struct {
	Arch string // that is wanted: GOARCH
	// Scratch makes a folder of the caller's for what must be unpacked first.
	Scratch func() (string, error)
	// MaxBytes bounds what is unpacked there.
	MaxBytes int64
	// Named are the registries that may be at addresses that are not public.
	Named Named
}

// Kinds of references. One without a kind is a registry's.
const (
	kindRegistry = "docker://"
	kindLayout   = "oci:"
	kindArchive  = "archive:"
	kindDaemon   = "daemon:"
)

// IsKind tells whether a prefix says where an image is.
func IsKind(prefix string) bool {
	return prefix == kindRegistry || prefix == kindLayout || prefix == kindArchive || prefix == kindDaemon
}

// IsRegistry tells whether a reference means an image of a registry.
func IsRegistry(reference string) bool {
	return !strings.HasPrefix(reference, kindLayout) && !strings.HasPrefix(reference, kindArchive) && !strings.HasPrefix(reference, kindDaemon)
}

// Open opens the image that a reference names: NAME:TAG or NAME@DIGEST in a
// registry, oci:FOLDER[:TAG], archive:FILE, daemon:NAME. Codes: invalid,
// not_found, forbidden, unavailable.
func (o Opener) Open(ctx context.Context, reference string) (*Image, error) {
	var img *Image
	var err error
	if path, ok := strings.CutPrefix(reference, kindLayout); ok {
		img, err = o.layout(path)
	} else if path, ok := strings.CutPrefix(reference, kindArchive); ok {
		img, err = o.archive(ctx, path)
	} else if name, ok := strings.CutPrefix(reference, kindDaemon); ok {
		img, err = o.daemon(ctx, name)
	} else {
		img, err = o.registry(ctx, strings.TrimPrefix(reference, kindRegistry))
	}
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", reference, err)
	}
	img.Reference = reference
	if err := img.describe(o.Arch); err != nil {
		img.Close()
		return nil, fmt.Errorf("open image %s: %w", reference, err)
	}
	return img, nil
}

// describe reads the image's configuration and checks that all of its parts
// belong together.
func (i *Image) describe(arch string) error {
	manifest, err := i.image.Manifest()
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	digest, err := i.image.Digest()
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	if i.Digest != "" && i.Digest != digest.String() {
		return broken("its manifest has digest %s, not %s", digest, i.Digest)
	}
	i.Digest = digest.String()
	if manifest.Config.Size > maxDocument || len(manifest.Layers) > maxLayers {
		return nimbus.Errorf(nimbus.CodeTooLarge, "it has a configuration of %d bytes and %d layers; the most are %d and %d",
			manifest.Config.Size, len(manifest.Layers), maxDocument, maxLayers)
	}
	raw, err := i.image.RawConfigFile()
	if err != nil {
		return fmt.Errorf("read configuration: %w", reason(err))
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != manifest.Config.Digest.Hex {
		return broken("its configuration has digest sha256:%x, not %s", sum, manifest.Config.Digest)
	}
	config, err := i.image.ConfigFile()
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if i.layers, err = i.image.Layers(); err != nil {
		return fmt.Errorf("read layers: %w", err)
	}
	if i.packed {
		i.blobs = manifest.Layers
	}
	i.diffs, i.Arch = config.RootFS.DiffIDs, config.Architecture
	switch {
	case len(manifest.Layers) != len(i.layers):
		return broken("it has %d layers, its manifest tells of %d", len(i.layers), len(manifest.Layers))
	case len(i.diffs) != len(i.layers):
		return broken("it has %d layers, its configuration tells of %d", len(i.layers), len(i.diffs))
	case config.OS != "" && config.OS != "linux", i.Arch != arch:
		return nimbus.Errorf(nimbus.CodeInvalid, "it is for %s/%s, this host is linux/%s", config.OS, i.Arch, arch).
			WithHint("%s", otherArch(arch))
	}
	i.Env, err = environment(config.Config.Env)
	return err
}

// environment takes over what an image sets for every process in it.
func environment(list []string) (kept []string, err error) {
	size := 0
	for _, pair := range list {
		key, _, ok := strings.Cut(pair, "=")
		if !ok || key == "" || strings.ContainsRune(pair, 0) {
			continue
		}
		size += len(pair)
		kept = append(kept, pair)
	}
	if len(kept) > maxEnv || size > maxEnvBytes {
		return nil, nimbus.Errorf(nimbus.CodeTooLarge, "it sets %d variables of %d bytes; the most are %d of %d", len(kept), size, maxEnv, maxEnvBytes)
	}
	return kept, nil
}

func broken(format string, args ...any) error {
	return nimbus.Errorf(nimbus.CodeInvalid, "it isn't whole: "+format, args...).
		WithHint("push or save it again")
}

// Layers is how many there are.
func (i *Image) Layers() int { return len(i.layers) }

// Bytes is how much the layers weigh where they are, 0 where that isn't known.
func (i *Image) Bytes() (total int64) {
	for _, l := range i.layers {
		if size, err := l.Size(); err == nil {
			total += size
		}
	}
	return total
}

// Layer reads a layer unpacked. Its end is an error where it is not what the
// image's configuration says.
func (i *Image) Layer(n int) (io.ReadCloser, error) {
	layer := i.layers[n]
	if i.packed {
		var err error
		if layer, err = partial.CompressedToLayer(checkedBlob{layer, i.blobs[n], n + 1}); err != nil {
			return nil, fmt.Errorf("open layer %d: %w", n+1, reason(err))
		}
	}
	r, err := layer.Uncompressed()
	if err != nil {
		return nil, fmt.Errorf("open layer %d: %w", n+1, reason(err))
	}
	return &checkedLayer{ReadCloser: r, hash: sha256.New(), want: i.diffs[n], number: n + 1}, nil
}

type checkedLayer struct {
	io.ReadCloser

	hash   hash.Hash
	want   v1.Hash
	number int
}

func (l *checkedLayer) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	l.hash.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(l.hash.Sum(nil)); l.want.Algorithm != "sha256" || got != l.want.Hex {
			return n, broken("layer %d has digest sha256:%s, not %s", l.number, got, l.want)
		}
		return n, io.EOF
	}
	if err != nil {
		err = reason(err)
	}
	return n, err
}

// checkedBlob is a packed layer whose end is an error where it is not the blob
// that the manifest names. What is unpacked of it is checked besides: two packed
// forms of one layer are not one blob.
type checkedBlob struct {
	v1.Layer

	want   v1.Descriptor
	number int
}

// Compressed implements partial.CompressedLayer.
func (b checkedBlob) Compressed() (io.ReadCloser, error) {
	r, err := b.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	return &blobReader{ReadCloser: r, hash: sha256.New(), blob: b}, nil
}

type blobReader struct {
	io.ReadCloser

	hash hash.Hash
	size int64
	blob checkedBlob
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.hash.Write(p[:n])
	r.size += int64(n)
	want := r.blob.want
	switch {
	case r.size > want.Size || errors.Is(err, io.EOF) && r.size != want.Size:
		return n, broken("layer %d has not the %d bytes of its digest", r.blob.number, want.Size)
	case errors.Is(err, io.EOF):
		if got := hex.EncodeToString(r.hash.Sum(nil)); want.Digest.Algorithm != "sha256" || got != want.Digest.Hex {
			return n, broken("layer %d is packed with digest sha256:%s, not %s", r.blob.number, got, want.Digest)
		}
	}
	return n, err
}
