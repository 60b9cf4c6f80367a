package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// sweepMost bounds one Sweep: the next one goes on.
const sweepMost = 10_000

// Sweep implements blob.Sweeper: it gives up uploads in parts, and removes what
// waits to be copied, that are older than anybody takes. Some servers tell of no
// uploads (MinIO's is one), and give them up by themselves.
func (s *Store) Sweep(ctx context.Context) error {
	before := time.Now().Add(-s.cfg.Abandoned)
	return errors.Join(s.sweepUploads(ctx, before), s.sweepStaged(ctx, before))
}

func (s *Store) sweepUploads(ctx context.Context, before time.Time) error {
	var failed []error
	key, id := "", ""
	for seen := 0; seen < sweepMost; {
		var page minio.ListMultipartUploadsResult
		err := s.call(ctx, "list uploads", func(ctx context.Context) (err error) {
			page, err = s.once.ListMultipartUploads(ctx, s.cfg.Bucket, s.cfg.Prefix, key, id, "", 1000)
			return err
		})
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, u := range page.Uploads {
			// A prefix of ours may begin others' names.
			ours := strings.HasPrefix(u.Key, s.cfg.Prefix+visible) || strings.HasPrefix(u.Key, s.cfg.Prefix+incoming)
			if !ours || !u.Initiated.Before(before) {
				continue
			}
			if err := s.abort(ctx, u.Key, u.UploadID); err != nil {
				failed = append(failed, fmt.Errorf("sweep: %w", err))
			}
		}
		seen += len(page.Uploads)
		next := page.NextKeyMarker != key || page.NextUploadIDMarker != id
		if key, id = page.NextKeyMarker, page.NextUploadIDMarker; !page.IsTruncated || !next {
			break
		}
	}
	return errors.Join(failed...)
}

func (s *Store) sweepStaged(ctx context.Context, before time.Time) error {
	var old []string
	err := s.call(ctx, "list what waits to be copied", func(ctx context.Context) error {
		seen := 0
		for info := range s.once.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: s.cfg.Prefix + incoming, Recursive: true}) {
			if info.Err != nil {
				return info.Err
			}
			if info.LastModified.Before(before) {
				old = append(old, info.Key)
			}
			if seen++; seen == sweepMost {
				break
			}
		}
		return nil
	})
	failed := []error{err}
	for _, object := range old {
		failed = append(failed, s.remove(ctx, object))
	}
	return errors.Join(failed...)
}
