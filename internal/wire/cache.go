package wire

import (
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// CacheEntry makes a message.
func CacheEntry(e nimbus.CacheEntry) *nimbusv1.CacheEntry {
	return &nimbusv1.CacheEntry{Id: e.ID, Repo: e.Repo, Scope: e.Scope, Key: e.Key, Version: e.Version, Bytes: e.Bytes,
		CreatedAt: Time(e.CreatedAt), UsedAt: Time(e.UsedAt)}
}

// ToCacheEntry reads one.
func ToCacheEntry(m *nimbusv1.CacheEntry) nimbus.CacheEntry {
	return nimbus.CacheEntry{ID: m.GetId(), Repo: m.GetRepo(), Scope: m.GetScope(), Key: m.GetKey(), Version: m.GetVersion(), Bytes: m.GetBytes(),
		CreatedAt: ToTime(m.GetCreatedAt()), UsedAt: ToTime(m.GetUsedAt())}
}

// CacheFilter makes a message.
func CacheFilter(f nimbus.CacheFilter) *nimbusv1.CacheFilter {
	return &nimbusv1.CacheFilter{Id: f.ID, Repo: f.Repo, Scope: f.Scope, Key: f.Key, KeyPrefix: f.Prefix}
}

// ToCacheFilter reads one.
func ToCacheFilter(m *nimbusv1.CacheFilter) nimbus.CacheFilter {
	return nimbus.CacheFilter{ID: m.GetId(), Repo: m.GetRepo(), Scope: m.GetScope(), Key: m.GetKey(), Prefix: m.GetKeyPrefix()}
}

// CacheUsage makes a message.
func CacheUsage(u nimbus.CacheUsage) *nimbusv1.CacheUsage {
	return &nimbusv1.CacheUsage{Repo: u.Repo, Entries: u.Entries, Bytes: u.Bytes, QuotaBytes: u.Quota, OwnQuota: u.OwnQuota, Hits: u.Hits, Misses: u.Misses,
		BytesIn: u.BytesIn, BytesOut: u.BytesOut, Evicted: u.Evicted, EvictedBytes: u.EvictedBytes, Refused: u.Refused}
}

// ToCacheUsage reads one.
func ToCacheUsage(m *nimbusv1.CacheUsage) nimbus.CacheUsage {
	return nimbus.CacheUsage{Repo: m.GetRepo(), Entries: m.GetEntries(), Bytes: m.GetBytes(), Quota: m.GetQuotaBytes(), OwnQuota: m.GetOwnQuota(),
		Hits: m.GetHits(), Misses: m.GetMisses(), BytesIn: m.GetBytesIn(), BytesOut: m.GetBytesOut(), Evicted: m.GetEvicted(),
		EvictedBytes: m.GetEvictedBytes(), Refused: m.GetRefused()}
}

// CacheStats makes a message.
func CacheStats(s nimbus.CacheStats) *nimbusv1.GetCacheStatsResponse {
	out := &nimbusv1.GetCacheStatsResponse{Org: CacheUsage(s.Org), Retention: durationpb.New(s.Retention)}
	for _, u := range s.Repos {
		out.Repos = append(out.Repos, CacheUsage(u))
	}
	return out
}

// ToCacheStats reads one.
func ToCacheStats(m *nimbusv1.GetCacheStatsResponse) nimbus.CacheStats {
	s := nimbus.CacheStats{Org: ToCacheUsage(m.GetOrg()), Retention: m.GetRetention().AsDuration()}
	for _, u := range m.GetRepos() {
		s.Repos = append(s.Repos, ToCacheUsage(u))
	}
	return s
}
