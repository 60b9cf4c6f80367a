package client

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// ImageRepos is a page of the org's repositories of images, and how much the org
// uses.
func (c *Client) ImageRepos(ctx context.Context, page nimbus.PageRequest) (repos []nimbus.ImageRepo, u nimbus.ImageUsage, next string, err error) {
	answer, err := call(ctx, c.registry.ListRegistryRepos, &nimbusv1.ListRegistryReposRequest{PageSize: int32(page.Size), PageToken: page.Token})
	for _, r := range answer.GetRepos() {
		repos = append(repos, wire.ToImageRepo(r))
	}
	return repos, wire.ToImageUsage(answer.GetUsage()), answer.GetNextPageToken(), err
}

// Images is a repository, and a page of its tags.
func (c *Client) Images(ctx context.Context, repo string, page nimbus.PageRequest) (r nimbus.ImageRepo, images []nimbus.Image, next string, err error) {
	answer, err := call(ctx, c.registry.ListImages, &nimbusv1.ListImagesRequest{Repo: repo, PageSize: int32(page.Size), PageToken: page.Token})
	for _, i := range answer.GetImages() {
		images = append(images, wire.ToImage(i))
	}
	return wire.ToImageRepo(answer.GetRepo()), images, answer.GetNextPageToken(), err
}

// RemoveImages removes a tag, an image by its digest, or, without a reference, a
// whole repository.
func (c *Client) RemoveImages(ctx context.Context, repo, reference string) error {
	_, err := call(ctx, c.registry.RemoveImages, &nimbusv1.RemoveImagesRequest{Repo: repo, Reference: reference})
	return err
}

// SetImageRules sets those of a repository.
func (c *Client) SetImageRules(ctx context.Context, repo string, r nimbus.ImageRules) error {
	_, err := call(ctx, c.registry.SetRegistryRules, &nimbusv1.SetRegistryRulesRequest{Repo: repo, Rules: wire.ImageRules(r)})
	return err
}

// SetImageQuota says how many bytes an org may have; negative for the usual.
func (c *Client) SetImageQuota(ctx context.Context, org string, bytes int64) error {
	_, err := call(ctx, c.registry.SetRegistryQuota, &nimbusv1.SetRegistryQuotaRequest{Org: org, Bytes: bytes})
	return err
}

// CollectImages removes now what nobody needs.
func (c *Client) CollectImages(ctx context.Context) (nimbus.ImagesSwept, error) {
	a, err := call(ctx, c.registry.CollectRegistry, &nimbusv1.CollectRegistryRequest{})
	return nimbus.ImagesSwept{Uploads: int(a.GetUploads()), Images: int(a.GetImages()), Manifests: int(a.GetManifests()), Blobs: int(a.GetBlobs()), Contents: int(a.GetContents())}, err
}

// ImageMirrors are the registries whose images the org has by way of its own.
func (c *Client) ImageMirrors(ctx context.Context) (all []nimbus.ImageMirror, err error) {
	answer, err := call(ctx, c.registry.ListRegistryMirrors, &nimbusv1.ListRegistryMirrorsRequest{})
	for _, m := range answer.GetMirrors() {
		all = append(all, wire.ToImageMirror(m))
	}
	return all, err
}

// SetImageMirror sets one, all of it, and makes it where there is none of that name.
func (c *Client) SetImageMirror(ctx context.Context, change nimbus.ImageMirrorChange) error {
	_, err := call(ctx, c.registry.SetRegistryMirror, wire.ImageMirrorChange(change))
	return err
}

// RemoveImageMirror removes one with all that is here of it.
func (c *Client) RemoveImageMirror(ctx context.Context, name string) error {
	_, err := call(ctx, c.registry.RemoveRegistryMirror, &nimbusv1.RemoveRegistryMirrorRequest{Name: name})
	return err
}
