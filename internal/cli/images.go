package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
)

type imagesCmd struct {
	List   imagesListCmd   `cmd:"" default:"withargs" help:"List the images on this machine."`
	Build  imagesBuildCmd  `cmd:"" help:"Build an image of a recipe: runner, which jobs get that name none, ai-eval-runner, or docker."`
	Import imagesImportCmd `cmd:"" help:"Make a container image ready for jobs."`
	Verify imagesVerifyCmd `cmd:"" help:"Tell whether images are still what was built."`
	GC     imagesGCCmd     `cmd:"" name:"gc" help:"Remove container images that were not used for long."`
}

// imagesFlags tell where images are.
type imagesFlags struct {
	Images string `help:"Folder of images. Default: images in the data directory." env:"NIMBUS_IMAGES" type:"path" placeholder:"DIR"`
}

func (f imagesFlags) store(a *app) (image.Store, error) {
	if f.Images != "" {
		return image.Store{Dir: f.Images}, nil
	}
	data, err := a.root.dataDir()
	return image.Store{Dir: filepath.Join(data, "images")}, err
}

// roots are the container images that were converted.
func (f imagesFlags) roots(a *app) (*rootfs.Store, error) {
	store, err := f.store(a)
	return rootfs.Open(filepath.Join(store.Dir, library.RootsDir)), err
}

// imageView is an image as --json shows it.
type imageView struct {
	Name     string    `json:"name"`
	Arch     string    `json:"arch"`
	BuiltAt  time.Time `json:"built_at"`
	Kernel   string    `json:"kernel,omitempty"`
	Packages []string  `json:"packages,omitempty"`
	NPM      []string  `json:"npm,omitempty"`    // its packages
	Runner   string    `json:"runner,omitempty"` // what takes GitHub's jobs
	Bytes    int64     `json:"bytes"`            // of its root file system

	// Of a container image.
	Source       string     `json:"source,omitempty"`
	SourceDigest string     `json:"source_digest,omitempty"`
	Digest       string     `json:"digest,omitempty"`
	UsedAt       *time.Time `json:"used_at,omitempty"`
}

// viewRoot shows a container image under one of its names.
func viewRoot(name string, r rootfs.Root) imageView {
	return imageView{
		Name: name, Arch: r.Arch, BuiltAt: r.ConvertedAt, Bytes: r.Size,
		Source: r.Source, SourceDigest: r.SourceDigest, Digest: r.Digest, UsedAt: &r.UsedAt,
	}
}

func viewImage(img image.Image) imageView {
	v := imageView{Name: img.Name, Arch: img.Arch, BuiltAt: img.BuiltAt, Kernel: img.Manifest.Kernel, Packages: img.Packages, NPM: img.NPM, Runner: img.Runner}
	if info, err := os.Stat(img.Root()); err == nil {
		v.Bytes = info.Size()
	}
	return v
}

type imagesListCmd struct {
	imagesFlags
}

func (*imagesListCmd) Help() string {
	return usage("nimbus images", "nimbus images --json")
}

func (c *imagesListCmd) Run(a *app) error {
	store, err := c.store(a)
	if err != nil {
		return err
	}
	v := struct {
		Images []imageView  `json:"images"`
		Broken []brokenView `json:"broken,omitempty"`
	}{Images: []imageView{}}
	for _, name := range store.Names() {
		img, err := store.Open(name)
		if err != nil {
			continue // it went just now
		}
		v.Images = append(v.Images, viewImage(img))
	}
	roots, err := c.roots(a)
	if err != nil {
		return err
	}
	refs, brokenRefs := roots.Refs()
	_, brokenRoots := roots.List()
	broken := slices.Concat(store.Broken(), brokenRoots, brokenRefs)
	for _, ref := range refs {
		if _, root, err := roots.Ref(ref.Name); err == nil {
			v.Images = append(v.Images, viewRoot(ref.Name, root))
		}
	}
	for _, err := range broken {
		v.Broken = append(v.Broken, brokenView{Reason: err.Error(), Hint: nimbus.ErrorHint(err)})
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	for _, b := range v.Broken {
		a.info("broken: %s; %s", b.Reason, b.Hint)
	}
	if len(v.Images) == 0 {
		a.info("no images in %s: nimbus images build", store.Dir)
		return nil
	}
	var rows []string
	for _, img := range v.Images {
		of := fmt.Sprintf("%d packages", len(img.Packages))
		if img.Source != "" {
			of = img.Source
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d MiB\t%s\t%s\t%s", img.Name, img.Arch, img.Bytes>>20, since(img.BuiltAt), img.Runner, of))
	}
	return a.table("NAME\tARCH\tSIZE\tBUILT\tRUNNER\tMADE OF", rows)
}
