package s3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// maxParts is how many parts S3 takes of one object.
const maxParts = 10_000

// firstBytes is the memory that a Put begins with: most blobs are small.
const firstBytes = 64 << 10

// Put implements blob.Store. Where S3 does not answer at its very end, the blob
// may be there all the same, whole.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, maxBytes int64) (info blob.Info, err error) {
	if err := blob.CheckKey(key); err != nil {
		return blob.Info{}, err
	}
	err = s.put(ctx, blob.NewIntake(ctx, r, s.within(maxBytes)), func(ctx context.Context, in *blob.Intake, first []byte, whole bool) error {
		if whole {
			info = in.Info()
			return s.putWhole(ctx, s.object(key), first)
		}
		if err := s.putParts(ctx, s.object(key), first, in); err != nil {
			return err
		}
		info = in.Info()
		return nil
	})
	if err != nil {
		return blob.Info{}, err
	}
	return info, nil
}

// PutAddressed implements blob.Store.
func (s *Store) PutAddressed(ctx context.Context, prefix string, r io.Reader, maxBytes int64) (sha256 string, err error) {
	if err := blob.CheckAddressed(prefix); err != nil {
		return "", err
	}
	err = s.put(ctx, blob.NewIntake(ctx, blob.Hashed(r), s.within(maxBytes)), func(ctx context.Context, in *blob.Intake, first []byte, whole bool) (err error) {
		if whole {
			sha256 = in.Info().SHA256
			return s.putWhole(ctx, s.object(prefix+"/"+sha256), first)
		}
		staged := s.cfg.Prefix + incoming + rand.Text()
		if err := s.putParts(ctx, staged, first, in); err != nil {
			return err
		}
		defer func() { // it would be swept, in a day
			err = errors.Join(err, s.remove(context.WithoutCancel(ctx), staged))
		}()
		sha256 = in.Info().SHA256
		return s.copy(ctx, staged, s.object(prefix+"/"+sha256), in.Info().Size)
	})
	if err != nil {
		return "", err
	}
	return sha256, nil
}

// within is how much can be put, of what may be.
func (s *Store) within(maxBytes int64) int64 { return min(maxBytes, maxParts*int64(s.cfg.PartBytes)) }

// put reads the first part, which often is all, and has it sent. Few may do that
// at once: each holds two parts in memory.
func (s *Store) put(ctx context.Context, in *blob.Intake, send func(ctx context.Context, in *blob.Intake, first []byte, whole bool) error) error {
	select {
	case s.puts <- struct{}{}:
		defer func() { <-s.puts }()
	case <-ctx.Done():
		return fmt.Errorf("put blob: %w", context.Cause(ctx))
	}
	first, whole, err := readPart(in, nil, s.cfg.PartBytes)
	if err == nil {
		err = send(ctx, in, first, whole)
	}
	if in.Err() != nil { // whatever became of that
		return fmt.Errorf("put blob: %w", in.Err())
	}
	return err
}

// readPart reads up to size bytes into a buffer that it makes as large as needed,
// and tells whether they are the last ones.
func readPart(in io.Reader, buf []byte, size int) (part []byte, last bool, err error) {
	part = buf[:0]
	for len(part) < size {
		if len(part) == cap(part) {
			part = slices.Grow(part, min(max(cap(part), firstBytes), size-len(part)))
		}
		n, err := in.Read(part[len(part):min(cap(part), size)])
		part = part[:len(part)+n]
		if errors.Is(err, io.EOF) {
			return part, true, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	return part, false, nil
}

// putWhole sends an object in one request.
func (s *Store) putWhole(ctx context.Context, object string, content []byte) error {
	_, err := s.parts.PutObject(ctx, s.cfg.Bucket, object, bytes.NewReader(content), int64(len(content)), "", "", minio.PutObjectOptions{})
	return told(ctx, "put blob", err)
}

// putParts sends an object in parts: one is read while the one before is sent.
// Nothing is there until all of them are.
func (s *Store) putParts(ctx context.Context, object string, first []byte, in io.Reader) error {
	return s.inParts(ctx, object, func(ctx context.Context, id string) (sent []minio.CompletePart, err error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		sending, sendCtx := errgroup.WithContext(ctx)
		parts, free := make(chan []byte), make(chan []byte, 2)
		free <- nil // the second buffer
		sending.Go(func() error {
			for part := range parts {
				info, err := s.parts.PutObjectPart(sendCtx, s.cfg.Bucket, object, id, len(sent)+1, bytes.NewReader(part), int64(len(part)), minio.PutObjectPartOptions{})
				if err != nil {
					return err
				}
				sent = append(sent, minio.CompletePart{PartNumber: info.PartNumber, ETag: info.ETag})
				free <- part
			}
			return nil
		})
		if err = s.readParts(sendCtx, first, in, parts, free); err != nil {
			cancel()
		}
		close(parts)
		// What is being sent has to be over before the upload is given up. Its
		// failure ended the reading; the other way round, put knows.
		return sent, cmp.Or(sending.Wait(), err)
	})
}

// readParts reads parts for as long as they are taken.
func (s *Store) readParts(ctx context.Context, first []byte, in io.Reader, parts chan<- []byte, free <-chan []byte) (err error) {
	for part, last := first, false; ; {
		select {
		case parts <- part:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if last {
			return nil
		}
		select {
		case part = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if part, last, err = readPart(in, part, s.cfg.PartBytes); err != nil {
			return err
		}
		if len(part) == 0 {
			return nil
		}
	}
}

// copy has the bucket copy an object, in parts that each take it but seconds.
func (s *Store) copy(ctx context.Context, from, to string, size int64) error {
	return s.inParts(ctx, to, func(ctx context.Context, id string) (sent []minio.CompletePart, err error) {
		for offset := int64(0); offset < size; offset += s.cfg.copyBytes {
			part, err := s.parts.CopyObjectPart(ctx, s.cfg.Bucket, from, s.cfg.Bucket, to, id, len(sent)+1, offset, min(s.cfg.copyBytes, size-offset), nil)
			if err == nil && part.ETag == "" { // S3 may fail after it has answered 200
				err = nimbus.Errorf(nimbus.CodeUnavailable, "the object store did not copy")
			}
			if err != nil {
				return nil, err
			}
			sent = append(sent, part)
		}
		return sent, nil
	})
}

// inParts makes an object of the parts that send sends, or leaves nothing of them.
func (s *Store) inParts(ctx context.Context, object string, send func(ctx context.Context, id string) ([]minio.CompletePart, error)) error {
	var id string
	// Seen to its end: nobody could give up an upload whose id did not come.
	err := s.call(context.WithoutCancel(ctx), "begin an upload", func(ctx context.Context) (err error) {
		id, err = s.once.NewMultipartUpload(ctx, s.cfg.Bucket, object, minio.PutObjectOptions{})
		return err
	})
	if err != nil {
		return err
	}
	sent, err := send(ctx, id)
	if err == nil {
		_, err = s.parts.CompleteMultipartUpload(ctx, s.cfg.Bucket, object, id, sent, minio.PutObjectOptions{})
	}
	if err == nil {
		return nil
	}
	s.giveUp(ctx, object, id)
	return told(ctx, "put blob", err)
}

// How often an upload is given up at most, and how soon again.
const (
	abortTries = 5
	abortPause = 100 * time.Millisecond
)

// giveUp gives an upload up until S3 knows of it no more: a part that is on its way, for
// one, makes it fail, or stays.
// https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
// Sweep finds in a day what stays all the same. That is no news: the error before is the
// same, or the upload was completed without a word.
func (s *Store) giveUp(ctx context.Context, object, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.CallTimeout)
	defer cancel()
	for try := range abortTries {
		if try > 0 {
			select {
			case <-time.After(abortPause):
			case <-ctx.Done():
				return
			}
		}
		_ = s.abort(ctx, object, id)
		_, err := s.once.ListObjectParts(ctx, s.cfg.Bucket, object, id, 0, 1)
		if minio.ToErrorResponse(err).Code == minio.NoSuchUpload {
			return
		}
	}
}

func (s *Store) abort(ctx context.Context, object, id string) error {
	return s.call(ctx, "give up an upload", func(ctx context.Context) error {
		return s.once.AbortMultipartUpload(ctx, s.cfg.Bucket, object, id)
	})
}
