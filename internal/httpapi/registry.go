package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Images is what people do with the images of their org.
type Images interface {
	Repos(ctx context.Context, orgID string, page nimbus.PageRequest) (repos []nimbus.ImageRepo, next string, err error)
	Usage(ctx context.Context, orgID string) (nimbus.ImageUsage, error)
	ListImages(ctx context.Context, orgID, repo string, page nimbus.PageRequest) (r nimbus.ImageRepo, images []nimbus.Image, next string, err error)
	Remove(ctx context.Context, p nimbus.Principal, orgID, repo, reference string) error
	SetImageRules(ctx context.Context, p nimbus.Principal, orgID, repo string, r nimbus.ImageRules) error
	SetQuota(ctx context.Context, p nimbus.Principal, orgID string, bytes int64) error
	Collect(ctx context.Context) (nimbus.ImagesSwept, error)
	Mirrors(ctx context.Context, orgID string) ([]nimbus.ImageMirror, error)
	SetMirror(ctx context.Context, p nimbus.Principal, orgID string, c nimbus.ImageMirrorChange) error
	RemoveMirror(ctx context.Context, p nimbus.Principal, orgID, name string) error
}

// registryService implements nimbusv1connect.RegistryServiceHandler.
type registryService struct{ api *api }

// images are what the server has; an error where there is no place for them.
func (s registryService) images() (Images, error) {
	if s.api.Images == nil {
		return nil, errNoRegistry
	}
	return s.api.Images, nil
}

func (s registryService) ListRegistryRepos(ctx context.Context, r *connect.Request[nimbusv1.ListRegistryReposRequest]) (*connect.Response[nimbusv1.ListRegistryReposResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	repos, next, err := images.Repos(ctx, callerOf(ctx).org, pageOf(r.Msg))
	if err != nil {
		return nil, err
	}
	u, err := images.Usage(ctx, callerOf(ctx).org)
	if err != nil {
		return nil, err
	}
	org, err := s.api.Identity.Org(ctx, callerOf(ctx).org)
	return reply(&nimbusv1.ListRegistryReposResponse{Repos: messages(repos, wire.ImageRepo), NextPageToken: next, Usage: wire.ImageUsage(u), Org: org.Name}, err)
}

func (s registryService) ListImages(ctx context.Context, r *connect.Request[nimbusv1.ListImagesRequest]) (*connect.Response[nimbusv1.ListImagesResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	repo, all, next, err := images.ListImages(ctx, c.org, r.Msg.GetRepo(), pageOf(r.Msg))
	if err != nil {
		return nil, err
	}
	org, err := s.api.Identity.Org(ctx, c.org)
	return reply(&nimbusv1.ListImagesResponse{Images: messages(all, wire.Image), NextPageToken: next, Repo: wire.ImageRepo(repo), Org: org.Name,
		MayRemove: c.may(nimbusv1connect.RegistryServiceRemoveImagesProcedure)}, err)
}

func (s registryService) RemoveImages(ctx context.Context, r *connect.Request[nimbusv1.RemoveImagesRequest]) (*connect.Response[nimbusv1.RemoveImagesResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	return reply(&nimbusv1.RemoveImagesResponse{}, images.Remove(ctx, c.Principal, c.org, r.Msg.GetRepo(), r.Msg.GetReference()))
}

func (s registryService) SetRegistryRules(ctx context.Context, r *connect.Request[nimbusv1.SetRegistryRulesRequest]) (*connect.Response[nimbusv1.SetRegistryRulesResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	return reply(&nimbusv1.SetRegistryRulesResponse{}, images.SetImageRules(ctx, c.Principal, c.org, r.Msg.GetRepo(), wire.ToImageRules(r.Msg.GetRules())))
}

func (s registryService) SetRegistryQuota(ctx context.Context, r *connect.Request[nimbusv1.SetRegistryQuotaRequest]) (*connect.Response[nimbusv1.SetRegistryQuotaResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	org, err := s.api.Identity.Org(ctx, r.Msg.GetOrg())
	if err != nil {
		return nil, err
	}
	return reply(&nimbusv1.SetRegistryQuotaResponse{}, images.SetQuota(ctx, callerOf(ctx).Principal, org.ID, r.Msg.GetBytes()))
}

func (s registryService) CollectRegistry(ctx context.Context, _ *connect.Request[nimbusv1.CollectRegistryRequest]) (*connect.Response[nimbusv1.CollectRegistryResponse], error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	done, err := images.Collect(ctx)
	return reply(&nimbusv1.CollectRegistryResponse{Uploads: int64(done.Uploads), Images: int64(done.Images), Manifests: int64(done.Manifests),
		Blobs: int64(done.Blobs), Contents: int64(done.Contents + done.Orphans)}, err)
}
