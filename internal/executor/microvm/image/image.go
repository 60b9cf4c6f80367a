// Package image keeps what microVMs boot: a kernel, its modules and a root file
// system, each image in a folder of its own. An image never changes; a rebuilt
// one takes the folder's place in one step.
package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/filename"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/durable"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/filesum"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/plainfile"
)

// Files of an image.
const (
	manifestFile = "image.json"
	kernelFile   = "vmlinux"
	modulesFile  = "modules.cpio"
	rootFile     = "root.squashfs"
)

// OfficialPrefix begins what an image says of GitHub's own runner in it; its
// version follows.
const OfficialPrefix = "official "

// maxManifest bounds what is read as a manifest, in bytes.
const maxManifest = 8 << 20

// RootType is the file system of every image's root.
const RootType = "squashfs"

// Manifest says what is in an image.
type Manifest struct {
	Name     string    `json:"name"`
	Arch     string    `json:"arch"`   // GOARCH
	Recipe   string    `json:"recipe"` // digest of what it was made from
	BuiltAt  time.Time `json:"built_at"`
	Kernel   string    `json:"kernel"`   // package and version
	Packages []string  `json:"packages"` // name_version of each
	// NPM are its packages: name@version of each.
	NPM []string `json:"npm,omitempty"`
	// Runner is what takes GitHub's jobs: OfficialPrefix and its version,
	// "stand-in", or "" for none.
	Runner string `json:"runner,omitempty"`
	// Digests are the SHA-256 of each file, by its name.
	Digests map[string]string `json:"digests"`
}

// Image is one image on this machine.
type Image struct {
	Manifest

	dir string
	// Of a converted container image; "" where the image has its own root.
	root string
	env  []string
	base string // the name of the image that it is over
}

// Kernel is the path of the uncompressed kernel.
func (i Image) Kernel() string { return filepath.Join(i.dir, kernelFile) }

// Modules is the path of a cpio archive: /modules/*.ko and /modules/order.
func (i Image) Modules() string { return filepath.Join(i.dir, modulesFile) }

// Root is the path of the root file system, a squashfs.
func (i Image) Root() string {
	if i.root != "" {
		return i.root
	}
	return filepath.Join(i.dir, rootFile)
}

// Env is what every process of a job gets in its environment: KEY=VALUE.
func (i Image) Env() []string { return i.env }

// Tools is the path of a squashfs with what takes GitHub's jobs, for a root that
// has none; "" where it has.
func (i Image) Tools() string {
	if i.root == "" {
		return ""
	}
	return filepath.Join(i.dir, rootFile)
}

// WithRoot is the kernel and the modules of this image under the root file
// system of a container image.
func (i Image) WithRoot(name, path string, env []string) Image {
	i.base, i.Name, i.root, i.env = i.Name, name, path, env
	return i
}

// Verify reads the whole image and compares it with its manifest, which takes
// a second or so.
func (i Image) Verify() error {
	var b filesum.Book
	return i.compare(b.Read)
}

// Check is Verify for who uses an image often: the files are read once for as
// long as they are the same. Of a container image it checks what was built, not
// its root.
func (i Image) Check(b *filesum.Book) error { return i.compare(b.Of) }

func (i Image) compare(read func(path string) (filesum.Sum, error)) error {
	name := cmp.Or(i.base, i.Name)
	for _, file := range files() {
		sum, err := read(filepath.Join(i.dir, file))
		if err == nil && sum.SHA256 == i.Digests[file] {
			continue
		}
		if err == nil {
			err = fmt.Errorf("it has %d bytes and SHA-256 %s", sum.Bytes, sum.SHA256)
		}
		return nimbus.Errorf(nimbus.CodeInternal, "%s of image %q is not what was built: %w", file, name, err).
			WithHint("nimbus images build %s builds it again", name)
	}
	return nil
}

// files are those of an image beside its manifest.
func files() []string { return []string{kernelFile, modulesFile, rootFile} }

// digests are those of the files as they are.
func (i Image) digests() (map[string]string, error) {
	var b filesum.Book
	digests := map[string]string{}
	for _, name := range files() {
		sum, err := b.Read(filepath.Join(i.dir, name))
		if err != nil {
			return nil, fmt.Errorf("read image: %w", err)
		}
		digests[name] = sum.SHA256
	}
	return digests, nil
}

// Store is a folder of images.
type Store struct {
	Dir string

	disk durable.Disk // nil: the machine's
}

func (s Store) steps() durable.Disk {
	if s.disk == nil {
		return durable.Real{}
	}
	return s.disk
}

// Open finds an image by name. Codes: not_found, with how to get it.
func (s Store) Open(name string) (Image, error) {
	img, err := read(s.dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no image %q on this host", name).WithHint("%s", s.hint(name))
	}
	if err != nil {
		return Image{}, fmt.Errorf("open image %s: %w", name, err)
	}
	return img, nil
}

// RunnerVersion is of GitHub's own runner in an image; "" where it is not inside,
// or there is no such image.
func (s Store) RunnerVersion(name string) string {
	img, err := read(s.dir(name))
	if err != nil {
		return "" // Open tells, when it is needed
	}
	version, official := strings.CutPrefix(img.Runner, OfficialPrefix)
	if !official {
		return ""
	}
	return version
}

// Get is Open: a store makes no image for a job.
func (s Store) Get(_ context.Context, name, _ string, _ func(string)) (Image, error) {
	return s.Open(name)
}

// Release does nothing: what was built is removed by hand alone.
func (s Store) Release(string) error { return nil }

// Users is nobody.
func (s Store) Users(string) []string { return nil }

func (s Store) hint(name string) string {
	if how := HowToBuild(name); how != "" {
		return "build it: " + how
	}
	names := s.Names()
	if len(names) == 0 {
		return "this host has no image at all: nimbus images build"
	}
	return "this host has " + Nearest(name, names) + " (nimbus images list)"
}

// Names lists the images, sorted. What can't be read is left out.
func (s Store) Names() []string {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if img, err := read(filepath.Join(s.Dir, e.Name())); err == nil {
			names = append(names, img.Name)
		}
	}
	return names
}

// Broken tells of each folder that should hold an image and doesn't.
func (s Store) Broken() (broken []error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil // there is no store yet
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.IsDir() {
			continue
		}
		if _, err := read(filepath.Join(s.Dir, e.Name())); err != nil {
			broken = append(broken, nimbus.Errorf(nimbus.CodeInternal, "%s holds no image that can be read: %w", e.Name(), err).
				WithHint("remove %s, and build or import the image again", filepath.Join(s.Dir, e.Name())))
		}
	}
	return broken
}

// dir is the image's folder. A name may hold slashes, its folder must not.
func (s Store) dir(name string) string { return filepath.Join(s.Dir, filename.Of(name)) }

func read(dir string) (Image, error) {
	raw, err := plainfile.Read(filepath.Join(dir, manifestFile), maxManifest)
	if err != nil {
		return Image{}, fmt.Errorf("read manifest: %w", err)
	}
	img := Image{dir: dir}
	if err := json.Unmarshal(raw, &img.Manifest); err != nil {
		return Image{}, fmt.Errorf("decode manifest: %w", err)
	}
	if img.Name == "" || filename.Of(img.Name) != filepath.Base(dir) {
		return Image{}, fmt.Errorf("its manifest is of an image %q", img.Name)
	}
	return img, nil
}

// draftPrefix begins the names of drafts' folders.
const draftPrefix = ".draft-"

// Draft is an image being made, in a folder beside the others.
type Draft struct {
	Image

	store Store
}

// draftAge is after how long a draft is one that a crash has left: making one
// takes minutes.
const draftAge = time.Hour

// removeDrafts removes what builds left that were cut off.
func (s Store) removeDrafts() {
	drafts, err := filepath.Glob(filepath.Join(s.Dir, draftPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range drafts {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > draftAge {
			os.RemoveAll(dir)
		}
	}
}

// Draft begins a new image. The caller fills the files at its paths, then
// publishes or discards it.
func (s Store) Draft() (*Draft, error) {
	// What it lies in may be a data directory that is not there yet, which is for
	// its owner alone.
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.Dir), 0o700), os.MkdirAll(s.Dir, 0o755)); err != nil {
		return nil, fmt.Errorf("make folder of images: %w", durable.OrReadOnly(err))
	}
	s.removeDrafts()
	dir, err := os.MkdirTemp(s.Dir, draftPrefix)
	if err != nil {
		return nil, fmt.Errorf("make folder of a new image: %w", durable.OrReadOnly(err))
	}
	return &Draft{Image: Image{dir: dir}, store: s}, nil
}

// Publish puts the image into its place. Machines that boot from one that it
// replaces keep the files that they have open.
func (d *Draft) Publish(m Manifest) (Image, error) {
	var err error
	if m.Digests, err = d.digests(); err != nil {
		return Image{}, err
	}
	raw, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return Image{}, fmt.Errorf("encode manifest: %w", err)
	}
	if err := d.commit(m.Name, append(raw, '\n')); err != nil {
		return Image{}, fmt.Errorf("publish image: %w", err)
	}
	return read(d.store.dir(m.Name))
}

// commit makes all durable before the name, and the name in the end.
func (d *Draft) commit(name string, manifest []byte) error {
	disk, place := d.store.steps(), d.store.dir(name)
	path := filepath.Join(d.dir, manifestFile)
	if err := disk.Write(path, manifest, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(d.dir, 0o755); err != nil { //nolint:gosec // nothing in an image is secret
		return err
	}
	for _, path := range []string{d.Kernel(), d.Modules(), d.Root(), path, d.dir} {
		if err := disk.Sync(path); err != nil {
			return err
		}
	}
	err := disk.Rename(d.dir, place)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		err = disk.Exchange(d.dir, place)
	}
	if err != nil {
		return err
	}
	// The one before goes once it is sure that the new one has the name.
	if err := disk.Sync(d.store.Dir); err != nil {
		return err
	}
	d.Discard()
	return nil
}

// Discard removes the draft.
func (d *Draft) Discard() { os.RemoveAll(d.dir) }

// RootDigest is the SHA-256 of the image's own root, as its manifest has it.
func (i Image) RootDigest() string { return i.Digests[rootFile] }
