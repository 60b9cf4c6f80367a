package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// RegistryBlob implements registry.Contents.
func (s *Store) RegistryBlob(ctx context.Context, p registry.Place, digest registry.Digest) (b registry.Blob, now time.Time, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.LinkedRegistryBlob(ctx, gen.LinkedRegistryBlobParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)})
		if errors.Is(err, sql.ErrNoRows) {
			return registry.NoBlob(digest)
		}
		b = registry.Blob{Digest: digest, Size: row.Size, Path: row.Path, Content: row.Content, UsedAt: fromMicros(row.UsedAt)}
		now = t.now
		return err
	})
	return b, now, err
}

// TouchRegistryBlob implements registry.Contents.
func (s *Store) TouchRegistryBlob(ctx context.Context, p registry.Place, digest registry.Digest) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.TouchRegistryLink(ctx, gen.TouchRegistryLinkParams{Now: micros(t.now), OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)})
		if err == nil && n == 0 { // it was collected since it was looked at
			return registry.NoBlob(digest)
		}
		return err
	})
}

// MountRegistryBlob implements registry.Contents.
func (s *Store) MountRegistryBlob(ctx context.Context, from, to registry.Place, digest registry.Digest) error {
	return s.write(ctx, func(t *tx) error {
		// With the link it is used, and not collected.
		n, err := t.TouchRegistryLink(ctx, gen.TouchRegistryLinkParams{Now: micros(t.now), OrgID: from.OrgID, Repo: from.Repo, Digest: string(digest)})
		if err != nil {
			return fmt.Errorf("keep a blob: %w", err)
		}
		if n == 0 {
			return registry.NoBlob(digest)
		}
		if err := t.openRegistryRepo(ctx, to); err != nil {
			return err
		}
		if err := t.linkRegistryBlob(ctx, to, digest); err != nil {
			return err
		}
		_, err = t.LockRegistryBlob(ctx, gen.LockRegistryBlobParams{OrgID: from.OrgID, Digest: string(digest)})
		if errors.Is(err, sql.ErrNoRows) {
			return registry.NoBlob(digest)
		}
		if err != nil {
			return fmt.Errorf("keep a blob: %w", err)
		}
		return nil
	})
}

// DropRegistryBlob implements registry.Contents.
func (s *Store) DropRegistryBlob(ctx context.Context, p registry.Place, digest registry.Digest) error {
	return s.write(ctx, func(t *tx) error {
		// With the row, no manifest begins to name it.
		n, err := t.TouchRegistryLink(ctx, gen.TouchRegistryLinkParams{Now: micros(t.now), OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)})
		if err != nil {
			return fmt.Errorf("lock a blob: %w", err)
		}
		if n == 0 {
			return registry.NoBlob(digest)
		}
		named, err := t.RegistryRefsOf(ctx, gen.RegistryRefsOfParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)})
		if err != nil {
			return fmt.Errorf("look what names a blob: %w", err)
		}
		if named {
			return registry.Refuse(registry.Unsupported, nimbus.CodeConflict, "a manifest names the blob %s: it goes with the last one that does", digest)
		}
		freed, err := t.unlinkRegistryBlob(ctx, p, digest)
		if err != nil {
			return err
		}
		if err := t.countRegistry(ctx, p.OrgID, -freed, registry.Limits{}); err != nil {
			return err
		}
		return t.GrowRegistryEpoch(ctx)
	})
}

// unlinkRegistryBlob takes a blob from a repository, whose link is locked, and
// removes it where that was the org's last. freed are its bytes then, which are
// still to be counted.
func (t *tx) unlinkRegistryBlob(ctx context.Context, p registry.Place, digest registry.Digest) (freed int64, err error) {
	b, err := t.LockRegistryBlob(ctx, gen.LockRegistryBlobParams{OrgID: p.OrgID, Digest: string(digest)})
	missing := errors.Is(err, sql.ErrNoRows)
	if err != nil && !missing {
		return 0, fmt.Errorf("lock a blob: %w", err)
	}
	if _, err := t.DropRegistryLink(ctx, gen.DropRegistryLinkParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest)}); err != nil {
		return 0, fmt.Errorf("take a blob from a repository: %w", err)
	}
	if missing {
		return 0, nil
	}
	linked, err := t.RegistryLinksOf(ctx, gen.RegistryLinksOfParams{OrgID: p.OrgID, Digest: string(digest)})
	if err != nil || linked {
		return 0, err
	}
	return b.Size, t.removeRegistryBlob(ctx, &b)
}

func (t *tx) removeRegistryBlob(ctx context.Context, b *gen.RegistryBlob) error {
	if err := t.DropRegistryBlob(ctx, gen.DropRegistryBlobParams{OrgID: b.OrgID, Digest: b.Digest}); err != nil {
		return fmt.Errorf("remove a blob: %w", err)
	}
	return t.wasteRegistry(ctx, b.OrgID, b.Path, b.Content)
}

// LoseRegistryBlob implements registry.Contents.
func (s *Store) LoseRegistryBlob(ctx context.Context, orgID string, lost registry.Blob) error {
	return s.write(ctx, func(t *tx) error {
		b, err := t.LockRegistryBlob(ctx, gen.LockRegistryBlobParams{OrgID: orgID, Digest: string(lost.Digest)})
		if errors.Is(err, sql.ErrNoRows) || err == nil && (b.Path != lost.Path || b.Content != lost.Content) {
			return nil // it was pushed anew
		}
		if err != nil {
			return fmt.Errorf("lock a blob: %w", err)
		}
		if err := t.DropRegistryLinksOf(ctx, gen.DropRegistryLinksOfParams{OrgID: orgID, Digest: b.Digest}); err != nil {
			return fmt.Errorf("take a blob from its repositories: %w", err)
		}
		if err := t.removeRegistryBlob(ctx, &b); err != nil {
			return err
		}
		if err := t.countRegistry(ctx, orgID, -b.Size, registry.Limits{}); err != nil {
			return err
		}
		return t.GrowRegistryEpoch(ctx)
	})
}

// RegistrySegments implements registry.Contents.
func (s *Store) RegistrySegments(ctx context.Context, content string, offset int64, most int) (segments []registry.Segment, err error) {
	err = s.read(ctx, func(t *tx) error {
		first, err := t.RegistrySegmentAt(ctx, gen.RegistrySegmentAtParams{Content: content, Start: offset})
		if err != nil || first < 0 {
			return err
		}
		rows, err := t.RegistrySegments(ctx, gen.RegistrySegmentsParams{Content: content, N: first, Limit: int32(most)})
		segments = make([]registry.Segment, len(rows))
		for i, r := range rows {
			segments[i] = registry.Segment{N: r.N, Offset: r.Start, Size: r.Size, Path: r.Path}
		}
		return err
	})
	return segments, err
}
