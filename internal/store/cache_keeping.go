package store

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// sweptAtOnce is how many uploads, entries or caches a sweep takes; the next one
// goes on.
const sweptAtOnce = 500

// GiveUpCache implements cache.Keeping.
func (s *Store) GiveUpCache(ctx context.Context, idle time.Duration) (n int, err error) {
	var unused, ended []int64
	err = s.read(ctx, func(t *tx) (err error) {
		unused, err = t.IdleCacheUploads(ctx, gen.IdleCacheUploadsParams{TouchedAt: micros(t.now.Add(-idle)), Limit: sweptAtOnce})
		if err == nil {
			ended, err = t.EndedCacheUploads(ctx, sweptAtOnce)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	n, err = s.giveUpCaches(ctx, unused, idle)
	if err != nil {
		return n, err
	}
	more, err := s.giveUpCaches(ctx, ended, now)
	return n + more, err
}

// giveUpCaches gives up those of uploads that are idle.
func (s *Store) giveUpCaches(ctx context.Context, ids []int64, idle time.Duration) (n int, err error) {
	for _, id := range ids {
		var given bool
		if err := s.write(ctx, func(t *tx) (err error) {
			given, err = t.giveUpCache(ctx, id, idle)
			return err
		}); err != nil {
			return n, err
		}
		if given {
			n++
		}
	}
	return n, nil
}

// ForgetUnusedCache implements cache.Keeping.
func (s *Store) ForgetUnusedCache(ctx context.Context, unused time.Duration) (n int, err error) {
	var victims []victim
	err = s.read(ctx, func(t *tx) error {
		victims = nil
		rows, err := t.UnusedCacheEntries(ctx, gen.UnusedCacheEntriesParams{UsedBefore: micros(t.now.Add(-unused)), Now: micros(t.now), Most: sweptAtOnce})
		for _, r := range rows {
			victims = append(victims, victim{r.ID, r.OrgID, r.Repo, r.Size})
		}
		if err != nil {
			return err
		}
		expired, err := t.ExpiredCacheEntries(ctx, gen.ExpiredCacheEntriesParams{Now: micros(t.now), Most: sweptAtOnce})
		if err != nil {
			return err
		}
		for _, r := range expired {
			victims = append(victims, victim{r.ID, r.OrgID, r.Repo, r.Size})
		}
		own, err := t.OwnCacheUnused(ctx, sweptAtOnce)
		if err != nil {
			return err
		}
		for _, o := range own {
			rows, err := t.UnusedCacheEntriesOf(ctx, gen.UnusedCacheEntriesOfParams{OrgID: o.OrgID, UsedBefore: micros(t.now) - o.Unused, Now: micros(t.now), Most: sweptAtOnce})
			if err != nil {
				return err
			}
			for _, r := range rows {
				victims = append(victims, victim{r.ID, r.OrgID, r.Repo, r.Size})
			}
		}
		return nil
	})
	for _, v := range victims {
		evicted := 0
		if err != nil {
			break
		}
		err = s.write(ctx, func(t *tx) error {
			room, err := t.countCache(ctx, cache.Place{OrgID: v.org, Repo: v.repo}, 0, 0)
			if err != nil {
				return err
			}
			err = room.evictOne(ctx, v)
			evicted = room.evicted
			return err
		})
		if err == nil {
			n += evicted
		}
	}
	return n, err
}

// TrimCache implements cache.Keeping.
func (s *Store) TrimCache(ctx context.Context, l cache.Limits) (n int, err error) {
	var rows []gen.CachesOverQuotaRow
	err = s.read(ctx, func(t *tx) (err error) {
		rows, err = t.CachesOverQuota(ctx, gen.CachesOverQuotaParams{Total: l.Total, OfOrg: l.Org, OfRepo: l.Repo, Entries: l.Entries, Most: sweptAtOnce})
		return err
	})
	for _, row := range rows {
		for evicted := mostEvicted; err == nil && evicted >= mostEvicted; { // until it did all that it can
			err = s.write(ctx, func(t *tx) error {
				room, err := t.countCache(ctx, cache.Place{OrgID: row.OrgID, Repo: row.Repo}, 0, 0)
				if err != nil {
					return err
				}
				err = room.trim(ctx, l)
				evicted = room.evicted
				return err
			})
			if err == nil {
				n += evicted
			}
		}
	}
	return n, err
}

// trim has entries go where a bound is passed; what can't go now stays over it.
func (r *cacheRoom) trim(ctx context.Context, l cache.Limits) error {
	switch {
	case r.place.OrgID == allCaches:
		return r.share(ctx, l)
	case r.place.Repo == allCaches:
		return r.evict(ctx, r.ofOrgOldest, func() bool { return r.ofOrg.Bytes > quota(&r.ofOrg, l.Org) || r.ofOrg.Entries > l.Entries })
	}
	return r.evict(ctx, r.ofRepoOldest, func() bool { return r.ofRepo.Bytes > quota(&r.ofRepo, l.Repo) })
}

// RemovedCache implements cache.Keeping.
func (s *Store) RemovedCache(ctx context.Context, after int64, most int) (gone []cache.Removed, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.RemovingCacheEntries(ctx, gen.RemovingCacheEntriesParams{Now: micros(t.now), After: after, Most: int32(most)})
		gone = make([]cache.Removed, len(rows))
		for i, r := range rows {
			gone[i] = cache.Removed{ID: r.ID, OrgID: r.OrgID}
		}
		return err
	})
	return gone, err
}

// CacheBlobNames implements cache.Keeping.
func (s *Store) CacheBlobNames(ctx context.Context, id int64, most int) (names []string, err error) {
	err = s.read(ctx, func(t *tx) (err error) {
		names, err = t.CacheBlobNames(ctx, gen.CacheBlobNamesParams{EntryID: id, Limit: int32(most)})
		return err
	})
	return names, err
}

// ForgetCacheBlobs implements cache.Keeping.
func (s *Store) ForgetCacheBlobs(ctx context.Context, id int64, upTo string) error {
	return s.write(ctx, func(t *tx) error {
		return t.ForgetCacheBlocks(ctx, gen.ForgetCacheBlocksParams{EntryID: id, Name: upTo})
	})
}

// ForgetCache implements cache.Keeping.
func (s *Store) ForgetCache(ctx context.Context, id int64) error {
	return s.write(ctx, func(t *tx) error {
		if _, err := t.ForgetCacheEntry(ctx, id); err != nil { // another replica may have done it
			return fmt.Errorf("forget an entry: %w", err)
		}
		return nil
	})
}

// NamedCacheBlobs implements cache.Keeping.
func (s *Store) NamedCacheBlobs(ctx context.Context, orgID string, id int64, first, last string) (names []string, err error) {
	err = s.read(ctx, func(t *tx) (err error) {
		names, err = t.NamedCacheBlobs(ctx, gen.NamedCacheBlobsParams{OrgID: orgID, EntryID: id, FirstName: first, LastName: last})
		return err
	})
	return names, err
}
