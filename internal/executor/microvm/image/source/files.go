package source

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nimbus-ci/nimbus"
)

// refName is where a layout says what an image is called.
const refName = "org.opencontainers.image.ref.name"

// maxIndexes bounds how deep lists of images lie in one another.
const maxIndexes = 4

// layout opens an image of a folder in OCI's layout.
func (o Opener) layout(dir string) (*Image, error) {
	tag := ""
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if i := strings.LastIndexByte(dir, ':'); i > 0 {
			dir, tag = dir[:i], dir[i+1:]
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeNotFound, "%s is no OCI layout: %w", dir, err).
			WithHint("oci:FOLDER or oci:FOLDER:TAG names a folder with the files oci-layout and index.json")
	}
	var all []listed
	if err := list(index, "", maxIndexes, &all); err != nil {
		return nil, err
	}
	found, err := o.choose(dir, tag, all)
	if err != nil {
		return nil, err
	}
	img, err := layout.Path(dir).Image(found.Digest)
	if err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	return &Image{image: img, Digest: found.Digest.String(), packed: true}, nil
}

// listed is an image of a layout, with its tag there.
type listed struct {
	v1.Descriptor

	tag string
}

// fits tells whether an image may be one for guests: its configuration tells
// where the list doesn't.
func (o Opener) fits(l listed) bool {
	return l.Platform == nil || l.Platform.OS == "linux" && l.Platform.Architecture == o.Arch
}

// choose finds the one image of a layout that is meant.
func (o Opener) choose(dir, tag string, all []listed) (listed, error) {
	var tags, others []string
	var tagged, fitting []listed
	for _, l := range all {
		if l.tag != "" && !slices.Contains(tags, l.tag) {
			tags = append(tags, l.tag)
		}
		if tag == "" || l.tag == tag {
			tagged = append(tagged, l)
		}
	}
	for _, l := range tagged {
		if o.fits(l) {
			fitting = append(fitting, l)
		} else {
			others = append(others, l.Platform.String())
		}
	}
	switch {
	case len(fitting) == 1:
		return fitting[0], nil
	case len(fitting) > 1:
		return listed{}, nimbus.Errorf(nimbus.CodeInvalid, "%s has %d images for linux/%s", dir, len(fitting), o.Arch).
			WithHint("name one by its tag, oci:FOLDER:TAG: %s", some(tags))
	case len(tagged) > 0:
		return listed{}, nimbus.Errorf(nimbus.CodeInvalid, "%s has no image for linux/%s, but for %s", dir, o.Arch, some(others)).
			WithHint("%s", otherArch(o.Arch))
	case tag != "":
		return listed{}, nimbus.Errorf(nimbus.CodeNotFound, "%s has no image with the tag %q", dir, tag).
			WithHint("it has the tags: %s", some(tags))
	}
	return listed{}, nimbus.Errorf(nimbus.CodeNotFound, "%s has no image", dir).WithHint("save one there again")
}

// otherArch is what to do with an image for other machines.
func otherArch(arch string) string {
	return fmt.Sprintf("build or pull it for this host, docker pull --platform linux/%s NAME, and save it again", arch)
}

// some are a few of many words.
func some(words []string) string {
	const most = 10
	if len(words) == 0 {
		return "none"
	}
	var quoted []string // whoever wrote the layout chose them
	for _, word := range words[:min(most, len(words))] {
		quoted = append(quoted, strconv.Quote(word))
	}
	if more := len(words) - most; more > 0 {
		quoted = append(quoted, fmt.Sprintf("%d more", more))
	}
	return strings.Join(quoted, ", ")
}

// list collects the images of an index, at whatever depth they lie.
func list(index v1.ImageIndex, tag string, depth int, all *[]listed) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	for _, d := range manifest.Manifests {
		own := cmp.Or(tag, d.Annotations[refName]) // the outer list's, where it has one
		switch {
		case d.Size > maxDocument:
		case d.MediaType == types.OCIManifestSchema1 || d.MediaType == types.DockerManifestSchema2:
			*all = append(*all, listed{d, own})
		case d.MediaType.IsIndex() && depth > 0:
			inner, err := index.ImageIndex(d.Digest)
			if err != nil {
				return fmt.Errorf("read index: %w", err)
			}
			if err := list(inner, own, depth-1, all); err != nil {
				return err
			}
		}
	}
	return nil
}

// archive opens an image of a file: what `docker save` writes, or an OCI layout
// as tar.
func (o Opener) archive(ctx context.Context, file string) (*Image, error) {
	docker, err := isDockerArchive(file)
	if err != nil {
		return nil, err
	}
	if docker {
		img, err := tarball.ImageFromPath(file, nil)
		if err != nil {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s holds no image that can be read: %w", file, err).
				WithHint("it must hold one image: docker save NAME > FILE")
		}
		return &Image{image: img}, nil
	}
	dir, err := o.Scratch()
	if err != nil {
		return nil, err
	}
	if err := o.unpackLayout(ctx, file, dir); err != nil {
		return nil, err
	}
	return o.layout(dir)
}

// isDockerArchive looks through an archive for the list that docker writes.
func isDockerArchive(file string) (found bool, err error) {
	err = eachEntry(file, func(h *tar.Header, _ io.Reader) error {
		name := path.Clean(h.Name)
		if strings.HasSuffix(name, ".json") && h.Size > maxDocument {
			return nimbus.Errorf(nimbus.CodeTooLarge, "%s in it has %d bytes", name, h.Size)
		}
		found = found || name == "manifest.json"
		return nil
	})
	return found, err
}

// layoutFile are the names of files in an OCI layout; nothing else is unpacked.
var layoutFile = regexp.MustCompile(`^(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

func (o Opener) unpackLayout(ctx context.Context, file, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		return fmt.Errorf("unpack archive: %w", err)
	}
	left := o.MaxBytes
	return eachEntry(file, func(h *tar.Header, r io.Reader) error {
		name := path.Clean(h.Name)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if h.Typeflag != tar.TypeReg || !layoutFile.MatchString(name) {
			return nil
		}
		if left -= h.Size; left < 0 {
			return nimbus.Errorf(nimbus.CodeTooLarge, "it has more than %d MiB", o.MaxBytes>>20)
		}
		f, err := os.OpenFile(filepath.Join(dir, filepath.FromSlash(name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("unpack archive: %w", err)
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("unpack archive: %w", err)
		}
		return nil
	})
}

func eachEntry(file string, visit func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such archive: %w", err).
			WithHint("archive:FILE names a file that docker save has written, or an OCI layout as tar")
	}
	defer f.Close()
	const most = 100_000
	in := tar.NewReader(f)
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if n == most {
			return nimbus.Errorf(nimbus.CodeTooLarge, "%s has more than %d files", file, most)
		}
		if err != nil {
			return nimbus.Errorf(nimbus.CodeInvalid, "%s is no archive that can be read: %w", file, err).
				WithHint("it must be a tar file, not compressed: docker save NAME > FILE, or an OCI layout")
		}
		if err := visit(h, in); err != nil {
			return err
		}
	}
}
