package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// HoldCache implements cache.Artifacts.
func (s *Store) HoldCache(ctx context.Context, id int64, sum string, keep time.Duration) (a cache.Artifact, err error) {
	err = s.write(ctx, func(t *tx) error {
		_, err := t.HoldCacheEntry(ctx, gen.HoldCacheEntryParams{Digest: sum, ExpiresAt: micros(t.now.Add(keep)), ID: id})
		if err != nil {
			return fmt.Errorf("hold an entry: %w", err)
		}
		row, err := t.CacheEntryRow(ctx, id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && row.State != cacheCommitted {
			return noCacheEntry()
		}
		a = artifact(&row)
		return err
	})
	return a, err
}

// TypeCache implements cache.Artifacts.
func (s *Store) TypeCache(ctx context.Context, uploadID int64, mimeType string) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.SetCacheType(ctx, gen.SetCacheTypeParams{MimeType: mimeType, ID: uploadID})
		if err == nil && n == 0 {
			return noCacheUpload()
		}
		return err
	})
}

// ArtifactOf implements cache.Artifacts.
func (s *Store) ArtifactOf(ctx context.Context, id int64) (a cache.Artifact, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.CacheEntryRow(ctx, id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && (row.State != cacheCommitted || row.Digest == "") {
			return noCacheEntry()
		}
		a = artifact(&row)
		return err
	})
	return a, err
}

// Artifacts implements cache.Artifacts.
func (s *Store) Artifacts(ctx context.Context, of cache.Place, most int) (all []cache.Artifact, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.Artifacts(ctx, gen.ArtifactsParams{OrgID: of.OrgID, Repo: of.Repo, Scope: of.Scope, Version: of.Version, Most: int32(most)})
		all = make([]cache.Artifact, len(rows))
		for i := range rows {
			all[i] = artifact(&rows[i])
		}
		return err
	})
	return all, err
}

func artifact(r *gen.CacheEntry) cache.Artifact {
	return cache.Artifact{Entry: cacheEntry(r), SHA256: r.Digest, MIMEType: r.MimeType, ExpiresAt: fromMicros(r.ExpiresAt)}
}
