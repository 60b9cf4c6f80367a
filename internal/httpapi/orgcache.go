package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// OrgCache says which of an org's jobs have the cache.
type OrgCache interface {
	GitHubJobsCached(ctx context.Context, orgID string) (bool, error)
	SetGitHubJobsCached(ctx context.Context, orgID string, on bool, e nimbus.AuditEvent) error
}

// orgCacheService implements nimbusv1connect.OrgCacheServiceHandler.
type orgCacheService struct{ api *api }

func (s orgCacheService) GetOrgCache(ctx context.Context, _ *connect.Request[nimbusv1.GetOrgCacheRequest]) (*connect.Response[nimbusv1.GetOrgCacheResponse], error) {
	on, err := s.api.OrgCache.GitHubJobsCached(ctx, callerOf(ctx).org)
	return reply(&nimbusv1.GetOrgCacheResponse{GithubJobs: on}, err)
}

func (s orgCacheService) SetOrgCache(ctx context.Context, r *connect.Request[nimbusv1.SetOrgCacheRequest]) (*connect.Response[nimbusv1.SetOrgCacheResponse], error) {
	c, set := callerOf(ctx), "off"
	if r.Msg.GetGithubJobs() {
		set = "on"
	}
	err := s.api.OrgCache.SetGitHubJobsCached(ctx, c.org, r.Msg.GetGithubJobs(), nimbus.AuditEvent{
		OrgID: c.org, Actor: c.Actor(), Action: "org_cache.set", Target: c.org, Outcome: nimbus.AuditAllowed,
		Detail: map[string]string{"github_jobs": set},
	})
	return reply(&nimbusv1.SetOrgCacheResponse{}, err)
}

// hasCacheDoor tells whether the host of a job is to stand between it and GitHub's
// cache.
func (a *api) hasCacheDoor(ctx context.Context, as nimbus.Assignment) (bool, error) {
	if as.Source != nimbus.SourceGitHub {
		return false, nil
	}
	return a.OrgCache.GitHubJobsCached(ctx, as.OrgID)
}
