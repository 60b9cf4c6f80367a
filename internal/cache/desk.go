package cache

import (
	"context"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Desk is the cache as people look at it, in the vocabulary of all rooms.
type Desk struct{ service *Service }

// Desk returns it.
func (s *Service) Desk() Desk { return Desk{s} }

// repoOf is a repository as people name it, as entries have it. AllRepos is no
// name: who means all must not name one. Codes: invalid.
func repoOf(named string) (string, error) {
	switch {
	case named == "":
		return AllRepos, nil
	case named == nimbus.OwnJobs:
		return "", nil
	case !nimbus.ValidRepo(named):
		return "", nimbus.Errorf(nimbus.CodeInvalid, "%.80q is no repository", named).WithHint("write OWNER/NAME, or %s for the org's own jobs", nimbus.OwnJobs)
	}
	return strings.ToLower(named), nil // as jobs have it
}

func filterOf(f nimbus.CacheFilter) Filter {
	return Filter{ID: f.ID, Key: f.Key, Prefix: f.Prefix, Scope: f.Scope}
}

// Entries is a page of an org's entries, the newest first. Codes: invalid.
func (d Desk) Entries(ctx context.Context, orgID string, f nimbus.CacheFilter, page nimbus.PageRequest) (entries []nimbus.CacheEntry, next string, err error) {
	repo, err := repoOf(f.Repo)
	if err != nil {
		return nil, "", err
	}
	found, next, err := d.service.List(ctx, orgID, repo, filterOf(f), page)
	for _, e := range found {
		entries = append(entries, nimbus.CacheEntry{ID: e.ID, Repo: e.Repo, Scope: e.Scope, Key: e.Key, Version: e.Version, Bytes: e.Size,
			CreatedAt: e.CreatedAt, UsedAt: e.UsedAt})
	}
	return entries, next, err
}

// Uploads are what an org is saving, the newest first, at most 200. Codes: invalid.
func (d Desk) Uploads(ctx context.Context, orgID string, f nimbus.CacheFilter) (uploads []nimbus.CacheUpload, err error) {
	repo, err := repoOf(f.Repo)
	if err != nil {
		return nil, err
	}
	found, err := d.service.Uploads(ctx, orgID, repo, filterOf(f))
	for _, u := range found {
		uploads = append(uploads, nimbus.CacheUpload{ID: u.ID, Repo: u.Repo, Scope: u.Scope, Key: u.Key, Version: u.Version, Bytes: u.Bytes, JobID: u.JobID,
			BegunAt: u.CreatedAt, TouchedAt: u.TouchedAt})
	}
	return uploads, err
}

// Stats is what an org uses.
func (d Desk) Stats(ctx context.Context, orgID string) (nimbus.CacheStats, error) {
	st, err := d.service.Stats(ctx, orgID)
	out := nimbus.CacheStats{Org: usageOf(st.Usage), Retention: st.Unused}
	out.Org.Repo = ""
	for _, u := range st.Repos {
		out.Repos = append(out.Repos, usageOf(u))
	}
	return out, err
}

func usageOf(u Usage) nimbus.CacheUsage {
	return nimbus.CacheUsage{Repo: u.Repo, Entries: u.Entries, Bytes: u.Bytes, Quota: u.Quota, OwnQuota: u.OwnQuota, Hits: u.Hits, Misses: u.Misses,
		BytesIn: u.BytesIn, BytesOut: u.BytesOut, Evicted: u.Evicted, EvictedBytes: u.EvictedBytes, Refused: u.Refused}
}

// Remove removes entries; see RemoveOf. Codes: invalid, not_found.
func (d Desk) Remove(ctx context.Context, p nimbus.Principal, orgID string, f nimbus.CacheFilter) (n int, bytes int64, more bool, err error) {
	repo, err := repoOf(f.Repo)
	if err != nil {
		return 0, 0, false, err
	}
	return d.service.RemoveOf(ctx, p, orgID, repo, filterOf(f))
}

// SetQuota sets that of a repository, or of the org where that is "". Codes:
// invalid.
func (d Desk) SetQuota(ctx context.Context, p nimbus.Principal, orgID, repo string, bytes int64) error {
	of, err := repoOf(repo)
	if err != nil {
		return err
	}
	return d.service.SetQuota(ctx, p, orgID, of, bytes)
}

// SetRetention sets after how long entries of an org go that nobody finds. Codes:
// invalid.
func (d Desk) SetRetention(ctx context.Context, p nimbus.Principal, orgID string, retention time.Duration) error {
	return d.service.SetUnused(ctx, p, orgID, retention)
}

// Warm asks hosts, by their ids, for entries; see Service.Warm. Codes: invalid,
// not_found.
func (d Desk) Warm(ctx context.Context, p nimbus.Principal, orgID string, w nimbus.CacheWarming) (entries int, bytes int64, err error) {
	repo, err := repoOf(w.Filter.Repo)
	if err != nil {
		return 0, 0, err
	}
	return d.service.Warm(ctx, p, orgID, repo, filterOf(w.Filter), w)
}

// Warmth is what an org has asked of hosts in the last hour, without their names.
func (d Desk) Warmth(ctx context.Context, orgID string) ([]nimbus.CacheWarmth, error) {
	return d.service.Warmth(ctx, orgID)
}
