package cli

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus/client"
)

type orgCacheCmd struct {
	Show orgCacheShowCmd `cmd:"" default:"withargs" help:"Show whether the org's jobs of GitHub's have the cache."`
	On   orgCacheOnCmd   `cmd:"" help:"Have them use the cache; for the org's admins."`
	Off  orgCacheOffCmd  `cmd:"" help:"Have them use GitHub's own; for the org's admins."`
}

const aboutOrgCache = "Jobs of GitHub's in microVMs save to Nimbus what their actions save to GitHub's cache, unless their org has it otherwise. Jobs of nimbus run always have the cache.\n\n"

type orgCacheShowCmd struct{}

func (*orgCacheShowCmd) Help() string {
	return aboutOrgCache + usage("nimbus orgs cache", "nimbus orgs cache --org acme --json | jq .cache.github_jobs")
}

type orgCacheView struct {
	GitHubJobs bool `json:"github_jobs"`
}

func (*orgCacheShowCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		on, err := cl.GitHubJobsCached(ctx)
		if err != nil {
			return err
		}
		return a.sayOrgCache(on)
	})
}

func (a *app) sayOrgCache(on bool) error {
	if a.root.JSON {
		return a.printJSON(map[string]any{"cache": orgCacheView{on}})
	}
	words := "jobs of GitHub's use GitHub's own cache"
	if on {
		words = "jobs of GitHub's have the cache"
	}
	_, err := fmt.Fprintln(a.Out, words)
	return err
}

type orgCacheOnCmd struct{}

func (*orgCacheOnCmd) Help() string {
	return aboutOrgCache + "It counts for jobs that are given to hosts from now on.\n\n" + usage("nimbus orgs cache on", "nimbus orgs cache on --org acme")
}

func (*orgCacheOnCmd) Run(ctx context.Context, a *app) error { return a.setOrgCache(ctx, true) }

type orgCacheOffCmd struct{}

func (*orgCacheOffCmd) Help() string {
	return aboutOrgCache + "It counts at once, for jobs that run too. What they saved stays until it is evicted.\n\n" + usage("nimbus orgs cache off", "nimbus orgs cache off --org acme")
}

func (*orgCacheOffCmd) Run(ctx context.Context, a *app) error { return a.setOrgCache(ctx, false) }

func (a *app) setOrgCache(ctx context.Context, on bool) error {
	return a.asking(func(cl *client.Client) error {
		if err := cl.SetGitHubJobsCached(ctx, on); err != nil {
			return err
		}
		return a.sayOrgCache(on)
	})
}
