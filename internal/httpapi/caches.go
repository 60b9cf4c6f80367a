package httpapi

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Caches is what jobs saved for later ones, as people look at it.
type Caches interface {
	Entries(ctx context.Context, orgID string, f nimbus.CacheFilter, page nimbus.PageRequest) (entries []nimbus.CacheEntry, next string, err error)
	// Uploads are what is being saved, the newest first.
	Uploads(ctx context.Context, orgID string, f nimbus.CacheFilter) ([]nimbus.CacheUpload, error)
	Stats(ctx context.Context, orgID string) (nimbus.CacheStats, error)
	Remove(ctx context.Context, p nimbus.Principal, orgID string, f nimbus.CacheFilter) (n int, bytes int64, more bool, err error)
	// SetQuota sets that of a repository, or of the org where that is "".
	SetQuota(ctx context.Context, p nimbus.Principal, orgID, repo string, bytes int64) error
	SetRetention(ctx context.Context, p nimbus.Principal, orgID string, retention time.Duration) error
	// Warm asks hosts, which are named by their ids, for entries.
	Warm(ctx context.Context, p nimbus.Principal, orgID string, w nimbus.CacheWarming) (entries int, bytes int64, err error)
	// Warmth tells what became of that, without the names of hosts.
	Warmth(ctx context.Context, orgID string) ([]nimbus.CacheWarmth, error)
}

// cacheService implements nimbusv1connect.CacheServiceHandler.
type cacheService struct{ api *api }

// caches is what there is. Codes: unsupported.
func (s cacheService) caches() (Caches, error) {
	if s.api.Caches == nil {
		return nil, nimbus.Errorf(nimbus.CodeUnsupported, "this server has no cache").WithHint("a replica keeps it in a bucket: --s3-bucket; see docs/cache.md")
	}
	return s.api.Caches, nil
}

func (s cacheService) ListCacheEntries(ctx context.Context, r *connect.Request[nimbusv1.ListCacheEntriesRequest]) (*connect.Response[nimbusv1.ListCacheEntriesResponse], error) {
	caches, err := s.caches()
	if err != nil {
		return nil, err
	}
	org, filter := callerOf(ctx).org, wire.ToCacheFilter(r.Msg.GetFilter())
	var uploads []nimbus.CacheUpload
	if r.Msg.GetPageToken() == "" { // before entries: what is saved meanwhile is told twice, and not left out
		if uploads, err = caches.Uploads(ctx, org, filter); err != nil {
			return nil, err
		}
	}
	entries, next, err := caches.Entries(ctx, org, filter, nimbus.PageRequest{Size: int(r.Msg.GetPageSize()), Token: r.Msg.GetPageToken()})
	return reply(&nimbusv1.ListCacheEntriesResponse{Entries: messages(entries, wire.CacheEntry), NextPageToken: next, Uploads: messages(uploads, wire.CacheUpload)}, err)
}

func (s cacheService) GetCacheStats(ctx context.Context, _ *connect.Request[nimbusv1.GetCacheStatsRequest]) (*connect.Response[nimbusv1.GetCacheStatsResponse], error) {
	caches, err := s.caches()
	if err != nil {
		return nil, err
	}
	st, err := caches.Stats(ctx, callerOf(ctx).org)
	return reply(wire.CacheStats(st), err)
}

func (s cacheService) RemoveCacheEntries(ctx context.Context, r *connect.Request[nimbusv1.RemoveCacheEntriesRequest]) (*connect.Response[nimbusv1.RemoveCacheEntriesResponse], error) {
	caches, err := s.caches()
	if err != nil {
		return nil, err
	}
	f := wire.ToCacheFilter(r.Msg.GetFilter())
	if f == (nimbus.CacheFilter{}) != r.Msg.GetAll() {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "which entries are to go?").WithHint("name an id, a repository, a scope or a key, or else all")
	}
	c := callerOf(ctx)
	n, bytes, more, err := caches.Remove(ctx, c.Principal, c.org, f)
	return reply(&nimbusv1.RemoveCacheEntriesResponse{Removed: int64(n), Bytes: bytes, More: more}, err)
}

func (s cacheService) SetRepoCacheQuota(ctx context.Context, r *connect.Request[nimbusv1.SetRepoCacheQuotaRequest]) (*connect.Response[nimbusv1.SetRepoCacheQuotaResponse], error) {
	caches, err := s.caches()
	if err != nil {
		return nil, err
	}
	if r.Msg.GetRepo() == "" { // which would be the org itself
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "no repository is named").WithHint("write OWNER/NAME, or - for the org's own jobs")
	}
	c := callerOf(ctx)
	return reply(&nimbusv1.SetRepoCacheQuotaResponse{}, caches.SetQuota(ctx, c.Principal, c.org, r.Msg.GetRepo(), r.Msg.GetBytes()))
}

func (s cacheService) SetOrgCacheQuota(ctx context.Context, r *connect.Request[nimbusv1.SetOrgCacheQuotaRequest]) (*connect.Response[nimbusv1.SetOrgCacheQuotaResponse], error) {
	caches, err := s.caches()
	if err != nil {
		return nil, err
	}
	org, err := s.api.Identity.Org(ctx, r.Msg.GetOrg())
	if err != nil {
		return nil, err
	}
	return reply(&nimbusv1.SetOrgCacheQuotaResponse{}, caches.SetQuota(ctx, callerOf(ctx).Principal, org.ID, "", r.Msg.GetBytes()))
}

func (s cacheService) SetCacheRetention(ctx context.Context, r *connect.Request[nimbusv1.SetCacheRetentionRequest]) (*connect.Response[nimbusv1.SetCacheRetentionResponse], error) {
	caches, err := s.caches()
	if err != nil {
		return nil, err
	}
	retention := time.Duration(-1)
	if r.Msg.GetRetention() != nil {
		retention = max(r.Msg.GetRetention().AsDuration(), 0) // none is refused, not the usual
	}
	c := callerOf(ctx)
	return reply(&nimbusv1.SetCacheRetentionResponse{}, caches.SetRetention(ctx, c.Principal, c.org, retention))
}
