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

// CacheUpload makes a message.
func CacheUpload(u nimbus.CacheUpload) *nimbusv1.CacheUpload {
	return &nimbusv1.CacheUpload{Id: u.ID, Repo: u.Repo, Scope: u.Scope, Key: u.Key, Version: u.Version, Bytes: u.Bytes, JobId: u.JobID,
		BegunAt: Time(u.BegunAt), TouchedAt: Time(u.TouchedAt)}
}

// ToCacheUpload reads one.
func ToCacheUpload(m *nimbusv1.CacheUpload) nimbus.CacheUpload {
	return nimbus.CacheUpload{ID: m.GetId(), Repo: m.GetRepo(), Scope: m.GetScope(), Key: m.GetKey(), Version: m.GetVersion(), Bytes: m.GetBytes(), JobID: m.GetJobId(),
		BegunAt: ToTime(m.GetBegunAt()), TouchedAt: ToTime(m.GetTouchedAt())}
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

// CacheWish makes a message.
func CacheWish(w nimbus.CacheWish) *nimbusv1.CacheWish {
	return &nimbusv1.CacheWish{OrgId: w.OrgID, EntryId: w.EntryID, Bytes: w.Bytes, Path: w.Path}
}

// ToCacheWish reads one.
func ToCacheWish(m *nimbusv1.CacheWish) nimbus.CacheWish {
	return nimbus.CacheWish{OrgID: m.GetOrgId(), EntryID: m.GetEntryId(), Bytes: m.GetBytes(), Path: m.GetPath()}
}

// CacheWarmed makes a message.
func CacheWarmed(w nimbus.CacheWarmed) *nimbusv1.CacheWarmed {
	return &nimbusv1.CacheWarmed{OrgId: w.OrgID, EntryId: w.EntryID, State: string(w.State)}
}

// ToCacheWarmed reads one.
func ToCacheWarmed(m *nimbusv1.CacheWarmed) nimbus.CacheWarmed {
	return nimbus.CacheWarmed{OrgID: m.GetOrgId(), EntryID: m.GetEntryId(), State: nimbus.CacheWarmState(m.GetState())}
}

// CacheWarmth makes a message.
func CacheWarmth(w nimbus.CacheWarmth) *nimbusv1.CacheWarmth {
	out := &nimbusv1.CacheWarmth{HostId: w.HostID, Host: w.Host, Away: w.Away}
	for _, c := range w.Counts {
		out.Counts = append(out.Counts, &nimbusv1.CacheWarmCount{State: string(c.State), Entries: c.Entries, Bytes: c.Bytes})
	}
	return out
}

// ToCacheWarmth reads one.
func ToCacheWarmth(m *nimbusv1.CacheWarmth) nimbus.CacheWarmth {
	w := nimbus.CacheWarmth{HostID: m.GetHostId(), Host: m.GetHost(), Away: m.GetAway()}
	for _, c := range m.GetCounts() {
		w.Counts = append(w.Counts, nimbus.CacheWarmCount{State: nimbus.CacheWarmState(c.GetState()), Entries: c.GetEntries(), Bytes: c.GetBytes()})
	}
	return w
}
