package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// errReplaces ends a transaction that has to be one that waits for the disk.
var errReplaces = errors.New("a block is replaced")

// PutCacheBlock implements cache.Uploads. It does not wait for the disk: what makes
// an entry of the block does. But where it replaces one whose content then goes,
// nothing may name that again.
func (s *Store) PutCacheBlock(ctx context.Context, id int64, b cache.Block, claimed int64) (loose string, err error) {
	put := func(t *tx, replace bool) error {
		loose = ""
		row, err := t.cacheUpload(ctx, id)
		if err != nil {
			return err
		}
		old, err := t.CacheBlock(ctx, gen.CacheBlockParams{EntryID: id, Block: []byte(b.ID)})
		known := err == nil
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("read a block: %w", err)
		}
		switch {
		case known && row.Arranged && old.N >= 0: // a repeated call that comes late
			loose = b.Name
			return t.reserveCache(ctx, &row, -min(claimed, row.Reserved))
		case known && !replace:
			return errReplaces
		case known:
			loose = old.Name
		case row.Blocks >= cache.MostBlocks(row.Reserved):
			return nimbus.Errorf(nimbus.CodeTooLarge, "the entry has %d blocks, which is the most for its bytes", row.Blocks)
		default:
			if err := t.CountCacheBlock(ctx, id); err != nil {
				return fmt.Errorf("count a block: %w", err)
			}
		}
		err = t.PutCacheBlock(ctx, gen.PutCacheBlockParams{EntryID: id, Block: []byte(b.ID), Name: b.Name, Size: b.Size, Sha256: b.SHA256})
		if err != nil {
			return fmt.Errorf("write a block: %w", err)
		}
		return t.reserveCache(ctx, &row, b.Size-claimed-old.Size)
	}
	err = s.writeRelaxed(ctx, func(t *tx) error { return put(t, false) })
	if errors.Is(err, errReplaces) {
		err = s.write(ctx, func(t *tx) error { return put(t, true) })
	}
	return loose, err
}

// CacheBlocks implements cache.Uploads.
func (s *Store) CacheBlocks(ctx context.Context, id int64) (n int64, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.CacheEntryRow(ctx, id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && row.State != cacheUploading {
			return noCacheUpload()
		}
		n = row.Blocks
		return err
	})
	return n, err
}

// ArrangeCache implements cache.Uploads.
func (s *Store) ArrangeCache(ctx context.Context, id int64, blocks []string) error {
	return s.write(ctx, func(t *tx) error {
		if _, err := t.cacheUpload(ctx, id); err != nil {
			return err
		}
		came, err := t.cacheBlocks(ctx, id)
		if err != nil {
			return err
		}
		return t.arrangeCache(ctx, id, came, blocks)
	})
}

func (t *tx) cacheBlocks(ctx context.Context, id int64) ([]cache.Came, error) {
	rows, err := t.CacheBlocksOf(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read blocks: %w", err)
	}
	came := make([]cache.Came, len(rows))
	for i, r := range rows {
		came[i] = cache.Came{ID: string(r.Block), Size: r.Size}
	}
	return came, nil
}

// arrangeCache writes the order of blocks, with where in the content each begins,
// so that a part of it is found without those before.
func (t *tx) arrangeCache(ctx context.Context, id int64, came []cache.Came, order []string) error {
	sizes := make(map[string]int64, len(came))
	for _, b := range came {
		sizes[b.ID] = b.Size
	}
	rows, start := make([][]any, len(order)), int64(0)
	for i, b := range order {
		size, ok := sizes[b]
		if !ok {
			_, theirs, _ := strings.Cut(b, ":")
			return nimbus.Errorf(nimbus.CodeInvalid, "block %.80q did not come", theirs)
		}
		rows[i] = []any{id, []byte(b), int64(i), start}
		start += size
	}
	if err := t.ScatterCacheBlocks(ctx, id); err != nil {
		return fmt.Errorf("put blocks in order: %w", err)
	}
	p := pipeline{tx: t}
	p.exact("put blocks in order", bulkUpdate("cache_blocks", "entry_id bigint, block bytea", "n bigint, start bigint"), rows)
	if err := p.run(ctx); err != nil {
		return err
	}
	if err := t.CacheArranged(ctx, id); err != nil {
		return fmt.Errorf("put blocks in order: %w", err)
	}
	return nil
}

// CommitCache implements cache.Uploads.
func (s *Store) CommitCache(ctx context.Context, id, size int64) (e cache.Entry, loose []string, err error) {
	err = s.write(ctx, func(t *tx) error {
		loose = nil
		row, err := t.cacheUpload(ctx, id)
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			e, err = t.committedCache(ctx, id, size)
			return err
		}
		if err != nil {
			return err
		}
		e, loose, err = t.commitCache(ctx, row, size)
		return err
	})
	return e, loose, err
}

// commitCache makes an upload that is this transaction's an entry.
func (t *tx) commitCache(ctx context.Context, row gen.CacheEntry, size int64) (e cache.Entry, loose []string, err error) {
	id := row.ID
	if !row.Arranged {
		if err := t.settleCache(ctx, id); err != nil {
			return e, nil, err
		}
	}
	came, digest, err := t.cacheContent(ctx, id)
	if err != nil {
		return e, nil, err
	}
	if came != size {
		return e, nil, nimbus.Errorf(nimbus.CodeInvalid, "%d bytes came, and %d were announced", came, size)
	}
	if loose, err = t.LooseCacheBlocks(ctx, id); err != nil {
		return e, nil, fmt.Errorf("look for what is not needed: %w", err)
	}
	if len(loose) > 0 {
		if err := t.DropLooseCacheBlocks(ctx, id); err != nil {
			return e, nil, fmt.Errorf("drop what is not needed: %w", err)
		}
	}
	if row.Reserved != size {
		if _, err := t.countCache(ctx, cachePlace(&row), size-row.Reserved, 0); err != nil {
			return e, nil, err
		}
	}
	if err := t.CommitCacheEntry(ctx, gen.CommitCacheEntryParams{Size: size, Now: micros(t.now), ID: id}); err != nil {
		return e, nil, fmt.Errorf("write an entry: %w", err)
	}
	row.Size, row.CreatedAt, row.UsedAt = size, micros(t.now), micros(t.now)
	e = cacheEntry(&row)
	e.Digest = digest
	return e, loose, nil
}

// cacheContent is how large a content is, and what its blocks hash to.
func (t *tx) cacheContent(ctx context.Context, id int64) (size int64, digest string, err error) {
	rows, err := t.CacheContent(ctx, id)
	if err != nil {
		return 0, "", fmt.Errorf("measure an entry: %w", err)
	}
	sum := transfer.NewDigest()
	for _, r := range rows {
		size += r.Size
		sum.Add(r.Size, r.Sha256)
	}
	return size, sum.String(), nil
}

// ReplaceCache implements cache.Uploads.
func (s *Store) ReplaceCache(ctx context.Context, id, size int64, p cache.Place, meta string, again cache.Again, match func(int64) bool) (e cache.Entry, kept bool, loose []string, err error) {
	err = s.write(ctx, func(t *tx) error {
		loose, kept = nil, false
		row, err := t.cacheUpload(ctx, id)
		if err != nil {
			return err
		}
		// With the books nobody else takes the place, nor removes who has it.
		if _, err := t.countCache(ctx, p, 0, 0); err != nil {
			return err
		}
		there, err := t.CachePlace(ctx, gen.CachePlaceParams{OrgID: p.OrgID, Repo: p.Repo, Scope: p.Scope, Version: p.Version, Key: []byte(p.Key)})
		none := errors.Is(err, sql.ErrNoRows)
		if err != nil && !none {
			return fmt.Errorf("look who has the place: %w", err)
		}
		if match != nil && !match(there.ID) { // 0 where none is
			return cache.NotTheOne()
		}
		switch {
		case none:
		case there.State == cacheUploading || again == cache.AgainRefused:
			return cacheTaken(there.State)
		case again == cache.AgainKeeps:
			e, kept = cacheEntry(&there), true
			_, err := t.giveUpCache(ctx, id, now)
			return err
		default:
			if _, err := t.removeCache(ctx, p.OrgID, there.ID); err != nil {
				return err
			}
		}
		if err := t.MoveCacheUpload(ctx, gen.MoveCacheUploadParams{Version: p.Version, Key: []byte(p.Key), Meta: meta, ID: id}); err != nil {
			return fmt.Errorf("put an entry in its place: %w", err)
		}
		row.Version, row.Key, row.Meta = p.Version, []byte(p.Key), meta
		e, loose, err = t.commitCache(ctx, row, size)
		return err
	})
	return e, kept, loose, err
}

// AbandonCache implements cache.Uploads.
func (s *Store) AbandonCache(ctx context.Context, id int64) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.giveUpCache(ctx, id, now)
		return err
	})
}

// now has an upload be idle that got a byte just now.
const now = -time.Hour

// committedCache is the answer to a commit that is repeated.
func (t *tx) committedCache(ctx context.Context, id, size int64) (e cache.Entry, err error) {
	row, err := t.CacheEntryRow(ctx, id)
	switch {
	case errors.Is(err, sql.ErrNoRows) || err == nil && row.State != cacheCommitted:
		return e, noCacheUpload()
	case err != nil:
		return e, fmt.Errorf("read an entry: %w", err)
	case row.Size != size:
		return e, nimbus.Errorf(nimbus.CodeConflict, "the entry was committed with %d bytes", row.Size)
	}
	e = cacheEntry(&row)
	_, e.Digest, err = t.cacheContent(ctx, id)
	return e, err
}

// settleCache orders blocks for which no list came.
func (t *tx) settleCache(ctx context.Context, id int64) error {
	came, err := t.cacheBlocks(ctx, id)
	if err != nil {
		return err
	}
	order, err := cache.InOrder(came)
	if err != nil {
		return err
	}
	return t.arrangeCache(ctx, id, came, order)
}
