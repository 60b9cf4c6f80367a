package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// CacheEntries is a page of what jobs of the org saved for later ones, the newest
// first. Codes: invalid, unsupported where there is no cache.
func (c *Client) CacheEntries(ctx context.Context, f nimbus.CacheFilter, page nimbus.PageRequest) (entries []nimbus.CacheEntry, next string, err error) {
	answer, err := call(ctx, c.caches.ListCacheEntries, &nimbusv1.ListCacheEntriesRequest{Filter: wire.CacheFilter(f), PageSize: int32(page.Size), PageToken: page.Token})
	return each(answer.GetEntries(), wire.ToCacheEntry), answer.GetNextPageToken(), err
}

// CacheUploads are what jobs of the org are saving, the newest first, at most 200.
// Codes: invalid, unsupported where there is no cache.
func (c *Client) CacheUploads(ctx context.Context, f nimbus.CacheFilter) ([]nimbus.CacheUpload, error) {
	answer, err := call(ctx, c.caches.ListCacheEntries, &nimbusv1.ListCacheEntriesRequest{Filter: wire.CacheFilter(f), PageSize: 1})
	return each(answer.GetUploads(), wire.ToCacheUpload), err
}

// CacheStats is what the org uses of the cache.
func (c *Client) CacheStats(ctx context.Context) (nimbus.CacheStats, error) {
	answer, err := call(ctx, c.caches.GetCacheStats, &nimbusv1.GetCacheStatsRequest{})
	return wire.ToCacheStats(answer), err
}

// RemoveCacheEntries removes all entries that a filter lets through; the zero
// filter stands for all of the org. What was removed before an error is told too.
// Codes: not_found for an id, forbidden.
func (c *Client) RemoveCacheEntries(ctx context.Context, f nimbus.CacheFilter) (removed, bytes int64, err error) {
	for {
		answer, err := call(ctx, c.caches.RemoveCacheEntries, &nimbusv1.RemoveCacheEntriesRequest{Filter: wire.CacheFilter(f), All: f == nimbus.CacheFilter{}})
		if err != nil {
			return removed, bytes, err
		}
		removed, bytes = removed+answer.GetRemoved(), bytes+answer.GetBytes()
		if !answer.GetMore() || f.ID != 0 {
			return removed, bytes, nil
		}
	}
}

// SetRepoCacheQuota sets how many bytes the entries of a repository may have, or
// those of nimbus.OwnJobs; -1 for the usual. Codes: invalid, forbidden.
func (c *Client) SetRepoCacheQuota(ctx context.Context, repo string, bytes int64) error {
	_, err := call(ctx, c.caches.SetRepoCacheQuota, &nimbusv1.SetRepoCacheQuotaRequest{Repo: repo, Bytes: bytes})
	return err
}

// SetOrgCacheQuota sets how many those of an org may have, by its id or name.
// Codes: not_found, forbidden.
func (c *Client) SetOrgCacheQuota(ctx context.Context, org string, bytes int64) error {
	_, err := call(ctx, c.caches.SetOrgCacheQuota, &nimbusv1.SetOrgCacheQuotaRequest{Org: org, Bytes: bytes})
	return err
}

// SetCacheRetention sets after how long entries of the org go that no job finds; a
// negative time is the usual. Codes: invalid, forbidden.
func (c *Client) SetCacheRetention(ctx context.Context, retention time.Duration) error {
	r := &nimbusv1.SetCacheRetentionRequest{}
	if retention >= 0 {
		r.Retention = durationpb.New(retention)
	}
	_, err := call(ctx, c.caches.SetCacheRetention, r)
	return err
}

// WarmCache asks hosts for entries, and tells how many each is asked for, and what
// they have already. Codes: not_found, invalid, conflict where no host is ready,
// forbidden.
func (c *Client) WarmCache(ctx context.Context, w nimbus.CacheWarming) (entries, bytes int64, hosts []nimbus.CacheWarmth, err error) {
	answer, err := call(ctx, c.caches.WarmCache, &nimbusv1.WarmCacheRequest{Filter: wire.CacheFilter(w.Filter), Hosts: w.Hosts, Limit: int32(w.Entries), MaxBytes: w.MaxBytes})
	return answer.GetEntries(), answer.GetBytes(), each(answer.GetHosts(), wire.ToCacheWarmth), err
}

// CacheWarmth is what the org has asked of hosts in the last hour, and what became
// of it. Codes: forbidden.
func (c *Client) CacheWarmth(ctx context.Context) ([]nimbus.CacheWarmth, error) {
	answer, err := call(ctx, c.caches.GetCacheWarmth, &nimbusv1.GetCacheWarmthRequest{})
	return each(answer.GetHosts(), wire.ToCacheWarmth), err
}
