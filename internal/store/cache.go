package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var _ cache.Store = (*Store)(nil)

// States of a row.
const (
	cacheUploading = "uploading"
	cacheCommitted = "committed"
)

// Ids of entries: milliseconds since idEpoch, then idRandom bits. Clients keep
// them in JSON numbers, which are exact up to 53 bits: that is until 2094.
const (
	idEpoch  = 1735689600 // 2025-01-01
	idRandom = 12
	// idTries is how often another one is taken where there are two of one
	// millisecond.
	idTries = 8
)

func cacheID(at time.Time) int64 {
	return at.Add(-idEpoch*time.Second).UnixMilli()<<idRandom | rand.Int64N(1<<idRandom)
}

func noCacheEntry() error {
	return nimbus.Errorf(nimbus.CodeNotFound, "there is no such entry in the cache")
}

func noCacheUpload() error {
	return nimbus.Errorf(nimbus.CodeNotFound, "there is no such upload: it is over, or was given up because nothing came for long")
}

func cachePlace(r *gen.CacheEntry) cache.Place {
	return cache.Place{OrgID: r.OrgID, Repo: r.Repo, Scope: r.Scope, Version: r.Version, Key: string(r.Key)}
}

func cacheEntry(r *gen.CacheEntry) cache.Entry {
	return cache.Entry{ID: r.ID, Place: cachePlace(r), Size: r.Size, Meta: r.Meta, CreatedAt: fromMicros(r.CreatedAt), UsedAt: fromMicros(r.UsedAt)}
}

// ReserveCache implements cache.Uploads.
func (s *Store) ReserveCache(ctx context.Context, p cache.Place, jobID string, size int64, l cache.Limits) (u cache.Upload, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := t.openCacheUsage(ctx, p); err != nil {
			return err
		}
		if err := t.freeCachePlace(ctx, p, l.Idle); err != nil {
			return err
		}
		open, err := t.CountCacheUploads(ctx, p.OrgID)
		if err != nil {
			return fmt.Errorf("count uploads: %w", err)
		}
		if open >= l.Uploads {
			return nimbus.Errorf(nimbus.CodeRateLimited, "the org saves %d entries at once, which is the most", open)
		}
		if u, err = t.insertCacheUpload(ctx, p, jobID); err != nil {
			return err
		}
		room, err := t.countCache(ctx, p, 0, 1)
		if err != nil {
			return err
		}
		if err := room.couldHold(size, l); err != nil {
			return err
		}
		_, err = room.make(ctx, l)
		return err
	})
	return u, err
}

// freeCachePlace is a conflict unless nobody has a place, or an upload that is
// idle, which loses it.
func (t *tx) freeCachePlace(ctx context.Context, p cache.Place, idle time.Duration) error {
	row, err := t.CachePlace(ctx, gen.CachePlaceParams{OrgID: p.OrgID, Repo: p.Repo, Scope: p.Scope, Version: p.Version, Key: []byte(p.Key)})
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look who has the place: %w", err)
	}
	if row.State == cacheUploading {
		given, err := t.giveUpCache(ctx, row.ID, idle)
		if err != nil || given {
			return err
		}
	}
	return cacheTaken(row.State)
}

func cacheTaken(state string) error {
	if state == cacheUploading {
		return nimbus.Errorf(nimbus.CodeConflict, "the key already exists in the cache: another job is saving it")
	}
	return nimbus.Errorf(nimbus.CodeConflict, "the key already exists in the cache: an entry never changes")
}

// giveUpCache gives up an upload that is idle; given is false for one that isn't.
func (t *tx) giveUpCache(ctx context.Context, id int64, idle time.Duration) (given bool, err error) {
	row, err := t.GiveUpCacheUpload(ctx, gen.GiveUpCacheUploadParams{Now: micros(t.now), ID: id, IdleSince: micros(t.now.Add(-idle))})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("give an upload up: %w", err)
	}
	_, err = t.countCache(ctx, cachePlace(&row), -row.Reserved, -1)
	return true, err
}

func (t *tx) insertCacheUpload(ctx context.Context, p cache.Place, jobID string) (cache.Upload, error) {
	for range idTries {
		id := cacheID(t.now)
		n, err := t.InsertCacheUpload(ctx, gen.InsertCacheUploadParams{ID: id, OrgID: p.OrgID, Repo: p.Repo, Scope: p.Scope, Version: p.Version, Key: []byte(p.Key),
			JobID: jobID, BegunAt: micros(t.now)})
		if err != nil {
			return cache.Upload{}, fmt.Errorf("write an upload: %w", err)
		}
		if n == 1 {
			return cache.Upload{ID: id, Place: p, CreatedAt: t.now}, nil
		}
		// Somebody has the place since we looked, or else the id.
		_, err = t.CachePlace(ctx, gen.CachePlaceParams{OrgID: p.OrgID, Repo: p.Repo, Scope: p.Scope, Version: p.Version, Key: []byte(p.Key)})
		if err == nil {
			return cache.Upload{}, cacheTaken(cacheUploading)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return cache.Upload{}, fmt.Errorf("look who has the place: %w", err)
		}
	}
	return cache.Upload{}, nimbus.Errorf(nimbus.CodeUnavailable, "too many uploads begin at once")
}

// cacheUpload makes an upload this transaction's, and notes that it is not idle.
func (t *tx) cacheUpload(ctx context.Context, id int64) (gen.CacheEntry, error) {
	row, err := t.TouchCacheUpload(ctx, gen.TouchCacheUploadParams{Now: micros(t.now), ID: id})
	if errors.Is(err, sql.ErrNoRows) {
		return row, noCacheUpload()
	}
	if err != nil {
		return row, fmt.Errorf("read an upload: %w", err)
	}
	return row, nil
}

// TouchCacheUpload implements cache.Uploads.
func (s *Store) TouchCacheUpload(ctx context.Context, id int64) error {
	return s.writeRelaxed(ctx, func(t *tx) error {
		_, err := t.cacheUpload(ctx, id)
		return err
	})
}

// ClaimCacheBytes implements cache.Uploads.
func (s *Store) ClaimCacheBytes(ctx context.Context, id, bytes int64, l cache.Limits) (p cache.Place, evicted int, err error) {
	for range roomTries {
		again, made := false, 0
		err = s.write(ctx, func(t *tx) error {
			row, err := t.cacheUpload(ctx, id)
			if err != nil {
				return err
			}
			p = cachePlace(&row)
			if row.Reserved+bytes > l.Entry {
				return nimbus.Errorf(nimbus.CodeTooLarge, "the entry is too large, %d bytes are the most", l.Entry)
			}
			room, err := t.countCache(ctx, p, bytes, 0)
			if err != nil {
				return err
			}
			again, err = room.make(ctx, l)
			made = room.evicted
			if err != nil || !again {
				return errors.Join(err, t.ReserveCacheBytes(ctx, gen.ReserveCacheBytesParams{Bytes: bytes, ID: id}))
			}
			_, err = t.countCache(ctx, p, -bytes, 0) // what has made room is kept
			return err
		})
		if evicted += made; err != nil || !again {
			return p, evicted, err
		}
	}
	return p, evicted, nimbus.Errorf(nimbus.CodeUnavailable, "the cache is too busy making room")
}

// FreeCacheBytes implements cache.Uploads.
func (s *Store) FreeCacheBytes(ctx context.Context, id, bytes int64) error {
	return s.write(ctx, func(t *tx) error {
		row, err := t.cacheUpload(ctx, id)
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		return t.reserveCache(ctx, &row, -min(bytes, row.Reserved))
	})
}

// reserveCache changes what is reserved for an upload, to what needs no room.
func (t *tx) reserveCache(ctx context.Context, row *gen.CacheEntry, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	if _, err := t.countCache(ctx, cachePlace(row), bytes, 0); err != nil {
		return err
	}
	if err := t.ReserveCacheBytes(ctx, gen.ReserveCacheBytesParams{Bytes: bytes, ID: row.ID}); err != nil {
		return fmt.Errorf("count bytes of an upload: %w", err)
	}
	return nil
}

// CacheAt implements cache.Uploads.
func (s *Store) CacheAt(ctx context.Context, p cache.Place) (id int64, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.CachePlace(ctx, gen.CachePlaceParams{OrgID: p.OrgID, Repo: p.Repo, Scope: p.Scope, Version: p.Version, Key: []byte(p.Key)})
		if errors.Is(err, sql.ErrNoRows) {
			return noCacheUpload()
		}
		id = row.ID
		return err
	})
	return id, err
}

// CachePlace implements cache.Uploads.
func (s *Store) CachePlace(ctx context.Context, id int64) (p cache.Place, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.CacheEntryRow(ctx, id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && row.State != cacheUploading && row.State != cacheCommitted {
			return noCacheUpload()
		}
		p = cachePlace(&row)
		return err
	})
	return p, err
}
