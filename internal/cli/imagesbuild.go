package cli

import (
	"context"
	"path/filepath"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/programs"
)

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
