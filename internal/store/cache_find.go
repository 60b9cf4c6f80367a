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

// newestCached is the newest of an org's entries whose key is in a range, and
// newestOfAll the first of many ranges that has one. Both read the index
// cache_find, of a range as much of it as there are keys in it, then one row: with
// 100,000 entries in 10 scopes, a look-up of 4 ranges takes 0.2 ms on SQLite and on
// PostgreSQL, the most that can be asked for, 256 ranges that have none, 9 ms and
// 5 ms, and one of 10,000 keys 7 ms and 36 ms.
const (
	newestCached = `SELECT id, scope, key, size, created_at, used_at, meta FROM cache_entries
WHERE org_id = $1 AND repo = $2 AND version = $3 AND scope = $4 AND key >= $5 AND key < $6 AND state = 'committed'
ORDER BY created_at DESC, id DESC LIMIT 1`
	newestOfAll = `SELECT e.id, e.scope, e.key, e.size, e.created_at, e.used_at, e.meta FROM unnest($4::text[], $5::bytea[], $6::bytea[]) WITH ORDINALITY AS r (scope, low, high, n)
CROSS JOIN LATERAL (
	SELECT id, scope, key, size, created_at, used_at, meta FROM cache_entries
	WHERE org_id = $1 AND repo = $2 AND version = $3 AND scope = r.scope AND key >= r.low AND key < r.high AND state = 'committed'
	ORDER BY created_at DESC, id DESC LIMIT 1) e
ORDER BY r.n LIMIT 1`
)

// FindCache implements cache.Entries. PostgreSQL gets all ranges at once; SQLite,
// which has no round trips, is asked until it has one.
func (s *Store) FindCache(ctx context.Context, orgID, repo, version string, in []cache.Range) (e cache.Entry, ok bool, err error) {
	err = s.read(ctx, func(t *tx) error {
		look := func(text string, args ...any) (err error) {
			row := gen.CacheEntry{OrgID: orgID, Repo: repo, Version: version}
			err = t.db.QueryRowContext(ctx, text, append([]any{orgID, repo, version}, args...)...).
				Scan(&row.ID, &row.Scope, &row.Key, &row.Size, &row.CreatedAt, &row.UsedAt, &row.Meta)
			if ok = err == nil; ok {
				e = cacheEntry(&row)
			}
			if errors.Is(err, sql.ErrNoRows) {
				err = nil
			}
			return err
		}
		if t.dialect.arrays() {
			var scopes []string
			var low, high [][]byte
			for _, r := range in {
				scopes, low, high = append(scopes, r.Scope), append(low, []byte(r.From)), append(high, []byte(r.To))
			}
			return look(newestOfAll, scopes, low, high)
		}
		for _, r := range in {
			if err := look(newestCached, r.Scope, []byte(r.From), []byte(r.To)); err != nil || ok {
				return err
			}
		}
		return nil
	})
	return e, ok, err
}

// PinCache implements cache.Entries.
func (s *Store) PinCache(ctx context.Context, id int64, keep time.Duration) (ok bool, err error) {
	err = s.writeRelaxed(ctx, func(t *tx) error {
		n, err := t.PinCacheEntry(ctx, gen.PinCacheEntryParams{Now: micros(t.now), Until: micros(t.now.Add(keep)), ID: id})
		ok = n > 0
		return err
	})
	return ok, err
}

// KeepCache implements cache.Entries.
func (s *Store) KeepCache(ctx context.Context, id int64, keep time.Duration) error {
	return s.writeRelaxed(ctx, func(t *tx) error {
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
		rows, err := t.CacheSegments(ctx, gen.CacheSegmentsParams{EntryID: id, N: n, Limit: int32(most)})
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
