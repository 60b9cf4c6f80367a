package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// CountCacheFinds implements cache.Books.
func (s *Store) CountCacheFinds(ctx context.Context, orgID, repo string, hits, misses int64) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.openCacheUsage(ctx, cache.Place{OrgID: orgID, Repo: repo}); err != nil {
			return err
		}
		for _, of := range []string{allCaches, repo} {
			if err := t.CountCacheFinds(ctx, gen.CountCacheFindsParams{Hits: hits, Misses: misses, OrgID: orgID, Repo: of}); err != nil {
				return fmt.Errorf("count finds: %w", err)
			}
		}
		return nil
	})
}

// CacheList implements cache.Books.
func (s *Store) CacheList(ctx context.Context, orgID, repo string, f cache.Filter, before int64, most int) (entries []cache.Entry, err error) {
	keys := cache.Beginning(f.Prefix)
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.CacheEntriesPage(ctx, gen.CacheEntriesPageParams{OrgID: orgID, Before: before, AnyRepo: repo == cache.AllRepos, Repo: repo,
			AnyScope: f.Scope == "", Scope: f.Scope, AnyKey: f.Prefix == "", FromKey: []byte(keys.From), ToKey: []byte(keys.To), Most: int32(most)})
		entries = make([]cache.Entry, len(rows))
		for i := range rows {
			entries[i] = cacheEntry(&rows[i])
		}
		return err
	})
	return entries, err
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
		Hits: r.Hits, Misses: r.Misses, Evicted: r.Evicted, EvictedBytes: r.EvictedBytes}
}

// RemoveCache implements cache.Books.
func (s *Store) RemoveCache(ctx context.Context, orgID string, id int64) error {
	return s.write(ctx, func(t *tx) error {
		row, err := t.CacheEntryRow(ctx, id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && row.OrgID != orgID {
			return noCacheEntry()
		}
		if err != nil {
			return fmt.Errorf("read an entry: %w", err)
		}
		return t.removeCache(ctx, &row)
	})
}

// removeCache removes an entry. Codes: not_found.
func (t *tx) removeCache(ctx context.Context, row *gen.CacheEntry) error {
	// The books are locked before entries that are in them.
	if _, err := t.countCache(ctx, cachePlace(row), -row.Size, -1); err != nil {
		return err
	}
	_, err := t.RemoveCacheEntry(ctx, gen.RemoveCacheEntryParams{Now: micros(t.now), OrgID: row.OrgID, ID: row.ID})
	if errors.Is(err, sql.ErrNoRows) {
		return noCacheEntry()
	}
	if err != nil {
		return fmt.Errorf("remove an entry: %w", err)
	}
	return nil
}

// SetCacheQuota implements cache.Books.
func (s *Store) SetCacheQuota(ctx context.Context, orgID, repo string, bytes int64, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.openCacheUsage(ctx, cache.Place{OrgID: orgID, Repo: repo}); err != nil {
			return err
		}
		if err := t.SetCacheQuota(ctx, gen.SetCacheQuotaParams{OrgID: orgID, Repo: repo, Quota: bytes}); err != nil {
			return fmt.Errorf("write a quota: %w", err)
		}
		return t.audit(ctx, e)
	})
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
	if err := t.RemoveOrgCache(ctx, gen.RemoveOrgCacheParams{OrgID: orgID, RemovingAt: micros(t.now)}); err != nil {
		return fmt.Errorf("remove the cache of an org: %w", err)
	}
	return t.DropOrgCacheUsage(ctx, orgID)
}
