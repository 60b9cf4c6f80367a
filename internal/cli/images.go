package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/programs"
)

type imagesCmd struct {
	List   imagesListCmd   `cmd:"" default:"withargs" help:"List the images on this machine."`
	Build  imagesBuildCmd  `cmd:"" help:"Build the image that jobs get when they name none."`
	Verify imagesVerifyCmd `cmd:"" help:"Tell whether images are still what was built."`
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

// imageView is an image as --json shows it.
type imageView struct {
	Name     string    `json:"name"`
	Arch     string    `json:"arch"`
	BuiltAt  time.Time `json:"built_at"`
	Kernel   string    `json:"kernel"`
	Packages []string  `json:"packages"`
	Runner   string    `json:"runner"` // what takes GitHub's jobs
	Bytes    int64     `json:"bytes"`  // of its root file system
}

func viewImage(img image.Image) imageView {
	v := imageView{Name: img.Name, Arch: img.Arch, BuiltAt: img.BuiltAt, Kernel: img.Manifest.Kernel, Packages: img.Packages, Runner: img.Runner}
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
		Images []imageView `json:"images"`
	}{Images: []imageView{}}
	for _, name := range store.Names() {
		img, err := store.Open(name)
		if err != nil {
			return err
		}
		v.Images = append(v.Images, viewImage(img))
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	if len(v.Images) == 0 {
		a.info("no images in %s: nimbus images build", store.Dir)
		return nil
	}
	var rows []string
	for _, img := range v.Images {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d MiB\t%s\t%s\t%d packages", img.Name, img.Arch, img.Bytes>>20, since(img.BuiltAt), img.Runner, len(img.Packages)))
	}
	return a.table("NAME\tARCH\tSIZE\tBUILT\tRUNNER\tMADE OF", rows)
}

type imagesBuildCmd struct {
	imagesFlags

	Name     string `arg:"" optional:"" default:"runner" help:"Which; the only one that is known how to build is runner."`
	Official string `help:"Whether to put GitHub's own runner in: auto (where it can be fetched), always, or never (unless it was fetched before)." enum:"auto,always,never" default:"auto" env:"NIMBUS_OFFICIAL_RUNNER"`
}

// fetch is what the flag --official means.
func (c *imagesBuildCmd) fetch() debian.Fetch {
	switch c.Official {
	case "always":
		return debian.FetchMust
	case "never":
		return debian.FetchCached
	}
	return debian.FetchTry
}

func (*imagesBuildCmd) Help() string {
	return `Builds the image from Debian packages, which apt fetches and checks as this machine is set up for. It needs no root. GitHub's own runner is fetched from github.com, at the version and digest of the recipe; without it the image takes jobs of the double of GitHub alone, which is what the demo needs. An image that is there already and was made by the same recipe is left as it is.

` + usage("nimbus images build", "nimbus images build --official always --images /srv/nimbus/images")
}

func (c *imagesBuildCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	if c.Name != nimbus.DefaultImage {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no recipe for an image %q", c.Name).WithHint("nimbus images build %s", nimbus.DefaultImage)
	}
	store, err := c.store(a)
	if err != nil {
		return err
	}
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	program, err := finder(data).Find(programs.Runner)
	if err != nil {
		return err
	}
	cfg := debian.Runner(store, program, c.fetch())
	cfg.Progress = func(what string) { a.info("%s: %s", c.Name, what) }
	img, err := debian.Build(ctx, cfg)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(viewImage(img))
	}
	a.info("%s is ready: %d packages, runner: %s, %s", img.Name, len(img.Packages), img.Runner, filepath.Dir(img.Root()))
	return nil
}

type imagesVerifyCmd struct {
	imagesFlags

	Names []string `arg:"" optional:"" help:"Which. Default: all on this machine." placeholder:"NAME"`
}

func (*imagesVerifyCmd) Help() string {
	return usage("nimbus images verify", "nimbus images verify runner --json")
}

func (c *imagesVerifyCmd) Run(a *app) error {
	store, err := c.store(a)
	if err != nil {
		return err
	}
	names := c.Names
	if len(names) == 0 {
		names = store.Names()
	}
	v := struct {
		Verified []string `json:"verified"`
	}{Verified: []string{}}
	for _, name := range names {
		img, err := store.Open(name)
		if err == nil {
			err = img.Verify()
		}
		if err != nil {
			return err
		}
		v.Verified = append(v.Verified, name)
		a.info("%s is what was built", name)
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	return nil
}
