package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var _ registry.Store = (*Store)(nil)

// Whoever locks several rows of the registry takes uploads first, then links, then
// blobs, manifests, tags, and the org's usage last.

// openRegistryRepo writes a repository down, unless it is a mirror's: such a one has
// no rules, and is there as long as its mirror is.
func (t *tx) openRegistryRepo(ctx context.Context, p registry.Place) error {
	if registry.IsMirrored(p.OrgID) {
		return nil
	}
	if err := t.OpenRegistryRepo(ctx, gen.OpenRegistryRepoParams{OrgID: p.OrgID, Repo: p.Repo, CreatedAt: micros(t.now)}); err != nil {
		return fmt.Errorf("write a repository: %w", err)
	}
	return nil
}

// countRegistry counts bytes of an org, for which there has to be room where they
// are more.
func (t *tx) countRegistry(ctx context.Context, orgID string, bytes int64, l registry.Limits) error {
	u, err := t.AddRegistryUsage(ctx, gen.AddRegistryUsageParams{OrgID: orgID, Bytes: bytes})
	if err != nil {
		return fmt.Errorf("count bytes: %w", err)
	}
	quota := u.Quota
	if quota < 0 {
		quota = l.Org
	}
	if bytes > 0 && u.Bytes > quota {
		return registry.QuotaFull(orgID, u.Bytes-bytes, quota)
	}
	return nil
}

// waste makes contents garbage.
func (t *tx) wasteRegistry(ctx context.Context, orgID, path, content string) error {
	if path != "" {
		if err := t.WasteRegistryPath(ctx, gen.WasteRegistryPathParams{OrgID: orgID, Path: path, RemovedAt: micros(t.now)}); err != nil {
			return fmt.Errorf("write garbage: %w", err)
		}
		return nil
	}
	if err := t.WasteRegistrySegments(ctx, gen.WasteRegistrySegmentsParams{Now: micros(t.now), Content: content}); err != nil {
		return fmt.Errorf("write garbage: %w", err)
	}
	if err := t.DropRegistrySegments(ctx, content); err != nil {
		return fmt.Errorf("remove segments: %w", err)
	}
	return nil
}

func noRegistryUpload() error {
	return registry.Refuse(registry.BlobUploadUnknown, nimbus.CodeNotFound, "there is no such upload: it has ended, or nothing came for long")
}

// RegistryUpload implements registry.Uploads.
func (s *Store) RegistryUpload(ctx context.Context, id string) (u registry.Upload, ended bool, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.RegistryUpload(ctx, id)
		if errors.Is(err, sql.ErrNoRows) {
			return noRegistryUpload()
		}
		u, ended = registryUpload(&row), row.State != registryOpen
		return err
	})
	return u, ended, err
}

const registryOpen, registryEnded = "open", "ended"

func registryUpload(r *gen.RegistryUpload) registry.Upload {
	return registry.Upload{ID: r.ID, Place: registry.Place{OrgID: r.OrgID, Repo: r.Repo}, Size: r.Size, Segments: r.Segments, Algorithm: r.Algorithm, Sum: r.Sum}
}

// GrowRegistryUpload implements registry.Uploads.
func (s *Store) GrowRegistryUpload(ctx context.Context, u registry.Upload, seg registry.Segment, l registry.Limits) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.growRegistryUpload(ctx, u, l); err != nil {
			return err
		}
		err := t.PutRegistrySegment(ctx, gen.PutRegistrySegmentParams{Content: u.ID, N: seg.N, OrgID: u.OrgID, Start: seg.Offset, Size: seg.Size, Path: seg.Path})
		if err != nil {
			return fmt.Errorf("write a segment: %w", err)
		}
		return t.countRegistry(ctx, u.OrgID, seg.Size, l)
	})
}

func (t *tx) growRegistryUpload(ctx context.Context, u registry.Upload, l registry.Limits) (err error) {
	var n int64
	if u.Segments == 1 {
		open, err := t.CountRegistryUploads(ctx, u.OrgID)
		if err != nil {
			return fmt.Errorf("count uploads: %w", err)
		}
		if open >= l.Uploads {
			return registry.Refuse(registry.TooManyRequests, nimbus.CodeRateLimited, "the org has %d uploads under way, which is the most", open)
		}
		n, err = t.OpenRegistryUpload(ctx, gen.OpenRegistryUploadParams{ID: u.ID, OrgID: u.OrgID, Repo: u.Repo, State: registryOpen,
			Size: u.Size, Segments: 1, Algorithm: u.Algorithm, Sum: u.Sum, BegunAt: micros(t.now)})
		if err != nil {
			return fmt.Errorf("begin an upload: %w", err)
		}
	} else {
		n, err = t.GrowRegistryUpload(ctx, gen.GrowRegistryUploadParams{Size: u.Size, Sum: u.Sum, Now: micros(t.now), ID: u.ID, Segments: u.Segments - 1})
		if err != nil {
			return fmt.Errorf("write an upload: %w", err)
		}
	}
	if n == 0 {
		return nimbus.Errorf(nimbus.CodeConflict, "somebody else has added to the upload")
	}
	return nil
}

// EndRegistryUpload implements registry.Uploads. One that never began is written
// down as ended: else it could begin.
func (s *Store) EndRegistryUpload(ctx context.Context, u registry.Upload) error {
	return s.write(ctx, func(t *tx) error {
		if u.Segments == 0 {
			_, err := t.OpenRegistryUpload(ctx, gen.OpenRegistryUploadParams{ID: u.ID, OrgID: u.OrgID, Repo: u.Repo, State: registryEnded,
				Algorithm: u.Algorithm, Sum: []byte{}, BegunAt: micros(t.now)})
			return err
		}
		return t.endRegistryUpload(ctx, u.ID)
	})
}

// endRegistryUpload gives an upload up with all that has come.
func (t *tx) endRegistryUpload(ctx context.Context, id string) error {
	row, err := t.EndRegistryUpload(ctx, gen.EndRegistryUploadParams{Now: micros(t.now), ID: id})
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end an upload: %w", err)
	}
	if err := t.wasteRegistry(ctx, row.OrgID, "", id); err != nil {
		return err
	}
	return t.countRegistry(ctx, row.OrgID, -row.Size, registry.Limits{})
}

// CommitRegistryUpload implements registry.Uploads.
func (s *Store) CommitRegistryUpload(ctx context.Context, u registry.Upload, digest registry.Digest) error {
	return s.write(ctx, func(t *tx) error {
		row, err := t.EndRegistryUpload(ctx, gen.EndRegistryUploadParams{Now: micros(t.now), ID: u.ID})
		if errors.Is(err, sql.ErrNoRows) {
			return noRegistryUpload()
		}
		if err != nil {
			return fmt.Errorf("end an upload: %w", err)
		}
		if row.Segments != u.Segments { // it has grown since it was hashed
			return registry.Refuse(registry.BlobUploadInvalid, nimbus.CodeConflict, "more bytes came for the upload while it was ended")
		}
		b := registry.Blob{Digest: digest, Size: row.Size, Content: row.ID}
		if row.Segments == 1 { // which is then a blob like one that came at once
			segments, err := t.RegistrySegments(ctx, gen.RegistrySegmentsParams{Content: row.ID, Limit: 1})
			if err != nil || len(segments) != 1 {
				return fmt.Errorf("read a segment: %w", errors.Join(err, errMissing(len(segments))))
			}
			b.Path, b.Content = segments[0].Path, ""
			if err := t.DropRegistrySegments(ctx, row.ID); err != nil {
				return fmt.Errorf("remove a segment: %w", err)
			}
		}
		kept, err := t.putRegistryBlob(ctx, u.Place, b)
		if err != nil || kept {
			return err
		}
		if err := t.wasteRegistry(ctx, u.OrgID, b.Path, b.Content); err != nil {
			return err
		}
		return t.countRegistry(ctx, u.OrgID, -row.Size, registry.Limits{})
	})
}

func errMissing(n int) error {
	if n > 0 {
		return nil
	}
	return errors.New("it is not there")
}

// putRegistryBlob writes a blob of a repository. kept is false where the org has
// its content already.
func (t *tx) putRegistryBlob(ctx context.Context, p registry.Place, b registry.Blob) (kept bool, err error) {
	if err := t.openRegistryRepo(ctx, p); err != nil {
		return false, err
	}
	if err := t.linkRegistryBlob(ctx, p, b.Digest); err != nil {
		return false, err
	}
	has, err := t.PutRegistryBlob(ctx, gen.PutRegistryBlobParams{OrgID: p.OrgID, Digest: string(b.Digest), Size: b.Size, Path: b.Path, Content: b.Content,
		CreatedAt: micros(t.now)})
	if err != nil {
		return false, fmt.Errorf("write a blob: %w", err)
	}
	return has.Path == b.Path && has.Content == b.Content, nil
}

// linkRegistryBlob makes a blob one of a repository.
func (t *tx) linkRegistryBlob(ctx context.Context, p registry.Place, digest registry.Digest) error {
	err := t.PutRegistryLink(ctx, gen.PutRegistryLinkParams{OrgID: p.OrgID, Repo: p.Repo, Digest: string(digest), UsedAt: micros(t.now)})
	if err != nil {
		return fmt.Errorf("write that a repository has a blob: %w", err)
	}
	return nil
}

// PutRegistryBlob implements registry.Uploads.
func (s *Store) PutRegistryBlob(ctx context.Context, p registry.Place, b registry.Blob, l registry.Limits) (kept bool, err error) {
	err = s.write(ctx, func(t *tx) error {
		if kept, err = t.putRegistryBlob(ctx, p, b); err != nil || !kept {
			return err
		}
		return t.countRegistry(ctx, p.OrgID, b.Size, l)
	})
	return kept, err
}
