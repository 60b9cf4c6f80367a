package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// newestCached is the newest of an org's entries whose key is in a range. Both
// engines read the index cache_find alone, and of a range of many keys as much of
// it as there are keys, then one row.
const newestCached = `SELECT id, scope, key, size, created_at, used_at FROM cache_entries WHERE id = (
	SELECT id FROM cache_entries WHERE org_id = $1 AND repo = $2 AND version = $3 AND scope = $4 AND key >= $5 AND key < $6 AND state = 'committed'
	ORDER BY created_at DESC, id DESC LIMIT 1)`

// FindCache implements cache.Entries. PostgreSQL gets all ranges of a scope in
// one round trip: a look-up has as many of them as scopes, until one has it.
func (s *Store) FindCache(ctx context.Context, orgID, repo, version string, in []cache.Range) (e cache.Entry, ok bool, err error) {
	err = s.read(ctx, func(t *tx) error {
		e, ok = cache.Entry{}, false
		for left := in; len(left) > 0 && !ok; {
			n := 1
			for n < len(left) && left[n].Scope == left[0].Scope {
				n++
			}
			p := pipeline{tx: t}
			for _, r := range left[:n] {
				p.query("look for an entry", newestCached, func(row scanner) error {
					found := gen.CacheEntry{OrgID: orgID, Repo: repo, Version: version}
					if err := row.Scan(&found.ID, &found.Scope, &found.Key, &found.Size, &found.CreatedAt, &found.UsedAt); err != nil {
						return fmt.Errorf("read an entry: %w", err)
					}
					if !ok { // the first of the ranges has it
						e, ok = cacheEntry(&found), true
					}
					return nil
				}, orgID, repo, version, r.Scope, []byte(r.From), []byte(r.To))
			}
			if err := p.run(ctx); err != nil {
				return err
			}
			left = left[n:]
		}
		return nil
	})
	return e, ok, err
}

// PinCache implements cache.Entries.
func (s *Store) PinCache(ctx context.Context, id int64, keep time.Duration) (ok bool, err error) {
	err = s.write(ctx, func(t *tx) error {
		n, err := t.PinCacheEntry(ctx, gen.PinCacheEntryParams{Now: micros(t.now), Until: micros(t.now.Add(keep)), ID: id})
		ok = n > 0
		return err
	})
	return ok, err
}

// KeepCache implements cache.Entries.
func (s *Store) KeepCache(ctx context.Context, id int64, keep time.Duration) error {
	return s.write(ctx, func(t *tx) error {
		return t.KeepCacheEntry(ctx, gen.KeepCacheEntryParams{Until: micros(t.now.Add(keep)), ID: id})
	})
}

// CacheEntry implements cache.Entries.
func (s *Store) CacheEntry(ctx context.Context, id int64) (e cache.Entry, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.CacheEntryRow(ctx, id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && row.State != cacheCommitted {
			return noCacheEntry()
		}
		e = cacheEntry(&row)
		return err
	})
	return e, err
}

// CacheSegments implements cache.Entries.
func (s *Store) CacheSegments(ctx context.Context, id, offset int64, most int) (segments []cache.Segment, err error) {
	err = s.read(ctx, func(t *tx) error {
		n, err := t.CacheSegmentAt(ctx, gen.CacheSegmentAtParams{EntryID: id, Start: offset})
		if err != nil {
			if errors.Is(err, sql.ErrNoRows) {
				return nimbus.Errorf(nimbus.CodeNotFound, "the entry has no byte %d", offset)
			}
			return fmt.Errorf("look where a byte is: %w", err)
		}
		rows, err := t.Queries.CacheSegments(ctx, gen.CacheSegmentsParams{EntryID: id, N: n, Limit: int32(most)})
		if err != nil {
			return fmt.Errorf("read segments: %w", err)
		}
		segments = make([]cache.Segment, len(rows))
		for i, r := range rows {
			segments[i] = cache.Segment{Blob: r.Name, Offset: r.Start, Size: r.Size, SHA256: r.Sha256}
		}
		return nil
	})
	return segments, err
}
