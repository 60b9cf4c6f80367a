package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// CountCacheUse implements cache.Books.
func (s *Store) CountCacheUse(ctx context.Context, orgID, repo string, u cache.Use) error {
	return s.writeRelaxed(ctx, func(t *tx) error {
		if err := t.openCacheUsage(ctx, cache.Place{OrgID: orgID, Repo: repo}); err != nil {
			return err
		}
		for _, of := range []string{allCaches, repo} {
			err := t.CountCacheUse(ctx, gen.CountCacheUseParams{Hits: u.Hits, Misses: u.Misses, BytesIn: u.BytesIn, BytesOut: u.BytesOut, Refused: u.Refused,
				OrgID: orgID, Repo: of})
			if err != nil {
				return fmt.Errorf("count the use of a cache: %w", err)
			}
		}
		return nil
	})
}

// CacheList implements cache.Books.
func (s *Store) CacheList(ctx context.Context, orgID, repo string, f cache.Filter, before int64, most int) (entries []cache.Entry, err error) {
	keys := f.Keys()
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.CacheEntriesPage(ctx, gen.CacheEntriesPageParams{OrgID: orgID, Before: before, AnyRepo: repo == cache.AllRepos, Repo: repo,
			AnyScope: f.Scope == "", Scope: f.Scope, AnyKey: f.Key == "" && f.Prefix == "", FromKey: []byte(keys.From), ToKey: []byte(keys.To), Most: int32(most)})
		entries = make([]cache.Entry, len(rows))
		for i := range rows {
			entries[i] = cacheEntry(&rows[i])
		}
		return err
	})
	return entries, err
}

// CacheUploads implements cache.Books.
func (s *Store) CacheUploads(ctx context.Context, orgID, repo string, most int) (all []cache.Uploading, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.CacheUploadsOf(ctx, gen.CacheUploadsOfParams{OrgID: orgID, AnyRepo: repo == cache.AllRepos, Repo: repo, Most: int32(most)})
		all = make([]cache.Uploading, len(rows))
		for i := range rows {
			r := &rows[i]
			all[i] = cache.Uploading{Upload: cache.Upload{ID: r.ID, Place: cachePlace(r), CreatedAt: fromMicros(r.BegunAt)}, Bytes: r.Reserved, JobID: r.JobID, TouchedAt: fromMicros(r.TouchedAt)}
		}
		return err
	})
	return all, err
}

// CacheUsage implements cache.Books.
func (s *Store) CacheUsage(ctx context.Context, orgID string, most int) (all cache.Usage, repos []cache.Usage, err error) {
	err = s.read(ctx, func(t *tx) error {
		all, repos = cache.Usage{}, nil
		rows, err := t.CacheUsageOf(ctx, gen.CacheUsageOfParams{OrgID: orgID, Limit: int32(most + 1)})
		for i := range rows {
			if u := cacheUsage(&rows[i]); u.Repo == cache.AllRepos {
				all = u
			} else {
				repos = append(repos, u)
			}
		}
		return err
	})
	return all, repos, err
}

// CacheUsageOfOrgs implements cache.Books.
func (s *Store) CacheUsageOfOrgs(ctx context.Context, after string, most int) (orgs []cache.Usage, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.CacheUsageOfOrgs(ctx, gen.CacheUsageOfOrgsParams{OrgID: max(after, allCaches), Limit: int32(most)})
		orgs = make([]cache.Usage, len(rows))
		for i := range rows {
			orgs[i] = cacheUsage(&rows[i])
		}
		return err
	})
	return orgs, err
}

func cacheUsage(r *gen.CacheUsage) cache.Usage {
	return cache.Usage{OrgID: r.OrgID, Repo: r.Repo, Entries: r.Entries, Bytes: r.Bytes, Quota: r.Quota, OwnQuota: r.Quota >= 0,
		Use:     cache.Use{Hits: r.Hits, Misses: r.Misses, BytesIn: r.BytesIn, BytesOut: r.BytesOut, Refused: r.Refused},
		Evicted: r.Evicted, EvictedBytes: r.EvictedBytes, Unused: time.Duration(r.Unused) * time.Microsecond, OwnUnused: r.Unused >= 0}
}

// RemoveCache implements cache.Books.
func (s *Store) RemoveCache(ctx context.Context, orgID string, id int64) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.removeCache(ctx, orgID, id)
		return err
	})
}

// removeCache removes an entry, and returns how many bytes it had.
func (t *tx) removeCache(ctx context.Context, orgID string, id int64) (size int64, err error) {
	row, err := t.CacheEntryRow(ctx, id)
	if errors.Is(err, sql.ErrNoRows) || err == nil && row.OrgID != orgID {
		return 0, noCacheEntry()
	}
	if err != nil {
		return 0, fmt.Errorf("read an entry: %w", err)
	}
	// The books are locked before entries that are in them.
	if _, err := t.countCache(ctx, cachePlace(&row), -row.Size, -1); err != nil {
		return 0, err
	}
	_, err = t.RemoveCacheEntry(ctx, gen.RemoveCacheEntryParams{Now: micros(t.now), Most: micros(t.now.Add(cache.PinFor)), OrgID: orgID, ID: id})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, noCacheEntry()
	}
	return row.Size, err
}

// RemoveCacheOf implements cache.Books. Entries are looked for in a transaction of
// their own: those that are gone by the time the books are locked are passed over.
func (s *Store) RemoveCacheOf(ctx context.Context, orgID, repo string, f cache.Filter, most int, e nimbus.AuditEvent) (n int, bytes int64, err error) {
	found := []cache.Entry{{ID: f.ID}}
	if f.ID == 0 {
		if found, err = s.CacheList(ctx, orgID, repo, f, 1<<62, most); err != nil || len(found) == 0 {
			return 0, 0, err
		}
	}
	err = s.write(ctx, func(t *tx) error {
		n, bytes = 0, 0
		// All that may be locked, in the order of all: see countCache.
		if _, err := t.countCache(ctx, cache.Place{OrgID: orgID, Repo: allCaches}, 0, 0); err != nil {
			return err
		}
		for i := range found {
			row, err := t.RemoveCacheEntry(ctx, gen.RemoveCacheEntryParams{Now: micros(t.now), Most: micros(t.now.Add(cache.PinFor)), OrgID: orgID, ID: found[i].ID})
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return fmt.Errorf("remove an entry: %w", err)
			}
			if _, err := t.countCache(ctx, cachePlace(&row), -row.Size, -1); err != nil {
				return err
			}
			n, bytes = n+1, bytes+row.Size
		}
		if n == 0 {
			return noCacheEntry()
		}
		e.Detail["entries"], e.Detail["bytes"] = strconv.Itoa(n), strconv.FormatInt(bytes, 10)
		return t.audit(ctx, e)
	})
	return n, bytes, err
}

// SetCacheUnused implements cache.Books.
func (s *Store) SetCacheUnused(ctx context.Context, orgID string, unused time.Duration, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.openCacheUsage(ctx, cache.Place{OrgID: orgID, Repo: allCaches}); err != nil {
			return err
		}
		us := int64(-1)
		if unused >= 0 {
			us = unused.Microseconds()
		}
		if err := t.SetCacheUnused(ctx, gen.SetCacheUnusedParams{Unused: us, OrgID: orgID}); err != nil {
			return fmt.Errorf("write how long entries stay: %w", err)
		}
		return t.audit(ctx, e)
	})
}

// NamedCacheUsage is what orgs use, by their names: those that were made first, up
// to most.
func (s *Store) NamedCacheUsage(ctx context.Context, most int) (names []string, orgs []cache.Usage, err error) {
	err = s.read(ctx, func(t *tx) error {
		names, orgs = nil, nil
		rows, err := t.NamedCacheUsage(ctx, int32(most))
		for i := range rows {
			r := &rows[i]
			names = append(names, r.Name)
			orgs = append(orgs, cacheUsage(&gen.CacheUsage{OrgID: r.OrgID, Repo: r.Repo, Bytes: r.Bytes, Entries: r.Entries, Hits: r.Hits, Misses: r.Misses,
				Evicted: r.Evicted, EvictedBytes: r.EvictedBytes, Quota: r.Quota, BytesIn: r.BytesIn, BytesOut: r.BytesOut, Refused: r.Refused, Unused: r.Unused}))
		}
		return err
	})
	return names, orgs, err
}

// SetCacheQuota implements cache.Books.
func (s *Store) SetCacheQuota(ctx context.Context, orgID, repo string, bytes int64, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		p := gen.SetCacheQuotaParams{OrgID: orgID, Repo: repo, Quota: bytes}
		n, err := t.SetCacheQuota(ctx, p)
		if err != nil {
			return fmt.Errorf("write a quota: %w", err)
		}
		if n == 0 {
			if err := t.openCacheQuota(ctx, orgID, repo); err != nil {
				return err
			}
			if _, err := t.SetCacheQuota(ctx, p); err != nil {
				return fmt.Errorf("write a quota: %w", err)
			}
		}
		return t.audit(ctx, e)
	})
}

// openCacheQuota opens the books of what has saved nothing yet: of a repository, where
// it is the org's.
func (t *tx) openCacheQuota(ctx context.Context, orgID, repo string) error {
	if repo != allCaches && repo != "" {
		_, err := t.RepoOfOrg(ctx, gen.RepoOfOrgParams{Name: repo, OrgID: orgID})
		if errors.Is(err, sql.ErrNoRows) {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such repository in this org").WithHint("one is known from its first job on")
		}
		if err != nil {
			return fmt.Errorf("find the repository: %w", err)
		}
	}
	return t.openCacheUsage(ctx, cache.Place{OrgID: orgID, Repo: repo})
}

// dropOrgCache removes all that an org has in the cache, and its books.
func (t *tx) dropOrgCache(ctx context.Context, orgID string) error {
	all, err := t.CacheUsageOf(ctx, gen.CacheUsageOfParams{OrgID: orgID, Limit: 1})
	if err != nil || len(all) == 0 {
		return err
	}
	// With the row of all caches, nobody counts anything meanwhile.
	room, err := t.countCache(ctx, cache.Place{OrgID: orgID, Repo: cache.AllRepos}, 0, 0)
	if err != nil {
		return err
	}
	_, err = t.AddCacheUsage(ctx, gen.AddCacheUsageParams{Bytes: -room.ofOrg.Bytes, Entries: -room.ofOrg.Entries, OrgID: allCaches, Repo: allCaches})
	if err != nil {
		return fmt.Errorf("count what a cache has: %w", err)
	}
	if err := t.RemoveOrgCache(ctx, gen.RemoveOrgCacheParams{OrgID: orgID, RemovingAt: micros(t.now), PinnedUntil: micros(t.now.Add(cache.PinFor))}); err != nil {
		return fmt.Errorf("remove the cache of an org: %w", err)
	}
	return t.DropOrgCacheUsage(ctx, orgID)
}
