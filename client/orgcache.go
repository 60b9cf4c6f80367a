package client

import (
	"context"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// GitHubJobsCached tells whether the org's jobs of GitHub's have the cache.
func (c *Client) GitHubJobsCached(ctx context.Context) (bool, error) {
	answer, err := call(ctx, c.orgCache.GetOrgCache, &nimbusv1.GetOrgCacheRequest{})
	return answer.GetGithubJobs(), err
}

// SetGitHubJobsCached says whether they have. Codes: forbidden.
func (c *Client) SetGitHubJobsCached(ctx context.Context, on bool) error {
	_, err := call(ctx, c.orgCache.SetOrgCache, &nimbusv1.SetOrgCacheRequest{GithubJobs: on})
	return err
}
