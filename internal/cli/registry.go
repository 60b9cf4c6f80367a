package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type registryCmd struct {
	List   registryListCmd   `cmd:"" name:"ls" default:"withargs" help:"Show the org's repositories of images, or the images in one."`
	Rm     registryRmCmd     `cmd:"" name:"rm" help:"Remove a tag, an image, or a whole repository."`
	Rules  registryRulesCmd  `cmd:"" help:"Set what a repository keeps, and whether its tags change."`
	GC     registryGCCmd     `cmd:"" name:"gc" help:"Remove now what nobody needs; for the platform's administrators."`
	Mirror registryMirrorCmd `cmd:"" help:"Have images of other registries by way of the org's own."`
	Quota  registryQuotaCmd  `cmd:"" help:"Say how much an org may have; for the platform's administrators."`
}

const aboutRegistry = "Images are pushed and pulled by docker and its like, at the server's own address: SERVER/ORG/REPO. See docs/registry.md.\n\n"

type registryListCmd struct {
	Repo string `arg:"" optional:"" help:"Repository, without the org. Default: all of them."`
}

func (*registryListCmd) Help() string {
	return aboutRegistry + usage("nimbus registry ls", "nimbus registry ls team/app", "nimbus registry ls team/app --json | jq '.images[].digest'")
}

// imageRepoView and taggedView are how repositories and images are written.
type (
	imageRepoView struct {
		Name      string     `json:"name"`
		Tags      int64      `json:"tags"`
		Manifests int64      `json:"manifests"`
		Bytes     int64      `json:"bytes"`
		PulledAt  *time.Time `json:"pulled_at,omitempty"`
		Immutable bool       `json:"immutable"`
		KeepDays  int        `json:"keep_days"`
		Evict     bool       `json:"evict"`
		PushFrom  []string   `json:"push_from,omitempty"`
	}
	taggedView struct {
		Tag          string              `json:"tag"`
		Digest       string              `json:"digest"`
		MediaType    string              `json:"media_type"`
		ArtifactType string              `json:"artifact_type,omitempty"`
		Bytes        int64               `json:"bytes"`
		Platforms    []string            `json:"platforms,omitempty"`
		PushedAt     time.Time           `json:"pushed_at"`
		PulledAt     *time.Time          `json:"pulled_at,omitempty"`
		Referrers    []imageReferrerView `json:"referrers,omitempty"`
	}
	imageReferrerView struct {
		Digest       string `json:"digest"`
		ArtifactType string `json:"artifact_type"`
		Bytes        int64  `json:"bytes"`
	}
)

func pulledAt(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func sometime(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Format(time.DateTime)
}

// mostListed is how many entries a list shows.
const mostListed = 10_000

func (c *registryListCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		if c.Repo == "" {
			return listImageRepos(ctx, a, cl)
		}
		var views []taggedView
		for page := (nimbus.PageRequest{Size: nimbus.MaxPageSize}); len(views) < mostListed; {
			_, images, next, err := cl.Images(ctx, c.Repo, page)
			if err != nil {
				return err
			}
			for _, i := range images {
				views = append(views, viewTagged(i))
			}
			if page.Token = next; next == "" {
				break
			}
		}
		return list(a, "images", views, "TAG\tDIGEST\tSIZE\tPLATFORMS\tPUSHED\tPULLED\tABOUT IT", func(v taggedView) string {
			about := make([]string, len(v.Referrers))
			for i, r := range v.Referrers {
				about[i] = r.ArtifactType
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", v.Tag, v.Digest, size(v.Bytes), strings.Join(v.Platforms, ","), v.PushedAt.Format(time.DateTime), sometime(v.PulledAt),
				terminal.OneLine(strings.Join(about, ", ")))
		})
	})
}

func viewTagged(i nimbus.Image) taggedView {
	v := taggedView{Tag: i.Tag, Digest: i.Digest, MediaType: i.MediaType, ArtifactType: i.ArtifactType, Bytes: i.Bytes, Platforms: i.Platforms, PushedAt: i.PushedAt, PulledAt: pulledAt(i.PulledAt)}
	for _, r := range i.Referrers {
		v.Referrers = append(v.Referrers, imageReferrerView{r.Digest, r.ArtifactType, r.Bytes})
	}
	return v
}

func listImageRepos(ctx context.Context, a *app, cl *client.Client) error {
	views := []imageRepoView{} // of none [], not null
	var used nimbus.ImageUsage
	for page := (nimbus.PageRequest{Size: nimbus.MaxPageSize}); len(views) < mostListed; {
		repos, u, next, err := cl.ImageRepos(ctx, page)
		if err != nil {
			return err
		}
		for _, r := range repos {
			views = append(views, imageRepoView{r.Name, r.Tags, r.Manifests, r.Bytes, pulledAt(r.PulledAt), r.Immutable, r.KeepDays, r.Evict, r.PushFrom})
		}
		used = u
		if page.Token = next; next == "" {
			break
		}
	}
	if a.root.JSON {
		return a.printJSON(map[string]any{"repos": views, "bytes": used.Bytes, "quota": used.Quota})
	}
	err := list(a, "repos", views, "REPOSITORY\tTAGS\tIMAGES\tSIZE\tPULLED\tRULES", func(v imageRepoView) string {
		var rules []string
		if v.Immutable {
			rules = append(rules, "immutable")
		}
		if v.KeepDays > 0 {
			rules = append(rules, fmt.Sprintf("keep %d days", v.KeepDays))
		}
		if v.Evict {
			rules = append(rules, "evict")
		}
		if len(v.PushFrom) > 0 {
			rules = append(rules, "push from "+strings.Join(v.PushFrom, " "))
		}
		return fmt.Sprintf("%s\t%d\t%d\t%s\t%s\t%s", v.Name, v.Tags, v.Manifests, size(v.Bytes), sometime(v.PulledAt), strings.Join(rules, ", "))
	})
	if err == nil {
		a.info("the org has %s of %s", size(used.Bytes), size(used.Quota))
	}
	return err
}

type registryRmCmd struct {
	Name  string `arg:"" help:"REPO:TAG, REPO@DIGEST, or REPO with --whole."`
	Whole bool   `help:"Remove the repository with all its images."`
}

func (*registryRmCmd) Help() string {
	return "A tag alone leaves the image, which goes after 30 days without a pull unless another tag names it; by its digest an image goes with all its tags. " +
		"What its blobs take is free a day later.\n\n" +
		usage("nimbus registry rm team/app:v1", "nimbus registry rm team/app@sha256:…", "nimbus registry rm team/app --whole")
}

func (c *registryRmCmd) Run(ctx context.Context, a *app) error {
	repo, reference, ok := strings.Cut(c.Name, "@")
	if !ok {
		repo, reference, ok = strings.Cut(c.Name, ":")
	}
	if ok == c.Whole || ok && reference == "" {
		return nimbus.Errorf(nimbus.CodeInvalid, "%q does not say what to remove", c.Name).WithHint("REPO:TAG is a tag, REPO@DIGEST an image, and REPO --whole all of a repository")
	}
	return a.asking(func(cl *client.Client) error {
		if err := cl.RemoveImages(ctx, repo, reference); err != nil {
			return err
		}
		return a.say("removed", c.Name, "%s is removed", c.Name)
	})
}

type registryRulesCmd struct {
	Repo      string   `arg:"" help:"Repository, without the org."`
	Immutable bool     `help:"A tag that is there stays what it is, and is not removed."`
	KeepDays  int      `within:"0..3650" help:"Images that nobody pulled or pushed for so many days go. 0: none do." placeholder:"N"`
	Evict     bool     `help:"The least recently used images make room when nine tenths of the org's quota are used."`
	PushFrom  []string `help:"Let jobs of this repository at GitHub push, too; - for the org's own jobs, * for all of the org. May be repeated." placeholder:"OWNER/NAME"`
}

func (*registryRulesCmd) Help() string {
	return "What is not named is off: the rules are all set anew. The repository may have nothing in it yet.\n\n" +
		"Without a rule a job pushes only to what is called after its own repository: a job of octo/app to octo/app and what is below it. " +
		"Jobs of pull requests from forks push nowhere.\n\n" +
		usage("nimbus registry rules team/app --immutable --push-from octo/app", "nimbus registry rules cache/build --keep-days 14 --evict --push-from '*'")
}

func (c *registryRulesCmd) Run(ctx context.Context, a *app) error {
	rules := nimbus.ImageRules{Immutable: c.Immutable, KeepDays: c.KeepDays, Evict: c.Evict, PushFrom: c.PushFrom}
	return a.asking(func(cl *client.Client) error {
		if err := cl.SetImageRules(ctx, c.Repo, rules); err != nil {
			return err
		}
		return a.say("repo", map[string]any{"name": c.Repo, "immutable": c.Immutable, "keep_days": c.KeepDays, "evict": c.Evict, "push_from": c.PushFrom}, "the rules of %s are set", c.Repo)
	})
}

type registryGCCmd struct{}

func (*registryGCCmd) Help() string {
	return "It is done each minute by itself, while others push, and removes nothing that is in use.\n\n" + usage("nimbus registry gc")
}

func (*registryGCCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		done, err := cl.CollectImages(ctx)
		if err != nil {
			return err
		}
		v := map[string]int{"uploads": done.Uploads, "images": done.Images, "manifests": done.Manifests, "blobs": done.Blobs, "contents": done.Contents}
		return a.say("removed", v, "%d idle uploads, %d images, %d manifests without a tag and %d blobs are removed, and %d contents from the disk",
			done.Uploads, done.Images, done.Manifests, done.Blobs, done.Contents)
	})
}

type registryQuotaCmd struct {
	OrgName string `arg:"" name:"org" help:"Its name or id."`

	quotaArg
}

func (*registryQuotaCmd) Help() string {
	return usage("nimbus registry quota acme 500", "nimbus registry quota acme usual")
}

func (c *registryQuotaCmd) Run(ctx context.Context, a *app) error {
	bytes, err := c.bytes()
	if err != nil {
		return err
	}
	return a.asking(func(cl *client.Client) error {
		if err := cl.SetImageQuota(ctx, c.OrgName, bytes); err != nil {
			return err
		}
		return a.say("quota", map[string]any{"org": c.OrgName, "bytes": bytes}, "the org %s has %s", terminal.OneLine(c.OrgName), c.said())
	})
}
