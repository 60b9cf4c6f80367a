package cli

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/programs"
)

type imagesBuildCmd struct {
	imagesFlags

	Name     string `arg:"" optional:"" default:"runner" help:"Which: runner, ai-eval-runner, or docker."`
	Official string `help:"Whether to put GitHub's own runner in: auto (where it can be fetched), always, or never (unless it was fetched before)." enum:"auto,always,never" default:"auto" env:"NIMBUS_OFFICIAL_RUNNER"`

	RunnerVersion string `help:"Another version of GitHub's own runner than the recipe's, which may have become too old for GitHub." and:"runner" placeholder:"VERSION" env:"NIMBUS_RUNNER_VERSION"`
	RunnerSHA256  string `name:"runner-sha256" help:"The SHA-256 of that version's linux-x64 archive, as its page at github.com/actions/runner/releases has it." and:"runner" placeholder:"DIGEST" env:"NIMBUS_RUNNER_SHA256"`
}

// release is which runner of GitHub's is to be inside. Codes: invalid.
func (c *imagesBuildCmd) release() (runner.Release, error) {
	version, digest := strings.TrimPrefix(c.RunnerVersion, "v"), strings.ToLower(c.RunnerSHA256)
	switch {
	case version == "" && digest == "":
		return runner.OfficialRelease(), nil
	case !runnerVersion.MatchString(version):
		return runner.Release{}, nimbus.Errorf(nimbus.CodeInvalid, "%.40q is no version of GitHub's runner", c.RunnerVersion).WithHint("it looks like 2.337.0, and is on https://github.com/actions/runner/releases")
	case !sha256Hex.MatchString(digest):
		return runner.Release{}, nimbus.Errorf(nimbus.CodeInvalid, "%.80q is no SHA-256", c.RunnerSHA256).
			WithHint("https://github.com/actions/runner/releases/tag/v%s has that of actions-runner-linux-x64-%s.tar.gz", version, version)
	}
	return runner.ReleaseOf(version, digest), nil
}

var (
	runnerVersion = regexp.MustCompile(`^[0-9]{1,4}\.[0-9]{1,6}\.[0-9]{1,6}$`)
	sha256Hex     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

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
GitHub gives no jobs to a runner that is a month behind its latest release: nimbus doctor github tells in time. Then build anew with a release of Nimbus that has a newer one, or with --runner-version.

ai-eval-runner has Node, Python, promptfoo, a client of Ollama and nimbus-eval-report besides; npm fetches its part, at the versions and digests of the recipe's lock, and runs none of the packages' scripts. docker has a docker daemon, which each job that uses it gets for itself.

` + usage("nimbus images build", "nimbus images build ai-eval-runner", "nimbus images build docker", "nimbus images build --official always --images /srv/nimbus/images",
		"nimbus images build --official always --runner-version 2.338.0 --runner-sha256 DIGEST")
}

func (c *imagesBuildCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	release, err := c.release()
	if err != nil {
		return err
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
	cfg, err := debian.Named(c.Name, store, program, c.fetch())
	if err != nil {
		return err
	}
	cfg.Runner.Release = release
	cfg.Progress = func(what string) { a.info("%s: %s", c.Name, what) }
	img, err := debian.Build(ctx, cfg)
	if err != nil {
		return store.OrFull(err)
	}
	if a.root.JSON {
		return a.printJSON(viewImage(img))
	}
	a.info("%s is ready: %d packages, runner: %s, %s", img.Name, len(img.Packages), img.Runner, filepath.Dir(img.Root()))
	return nil
}
