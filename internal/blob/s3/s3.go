// Package s3 stores blobs in a bucket of S3, or of what speaks like it. Any
// number of processes may share one.
//
// Under the store's prefix, blobs/ holds what can be found by key. What is put
// under a key comes there at once, whole: in one request, or as an upload in
// parts that shows with its last request. Content that is stored by its hash has
// no key until it has been read: up to a part it waits in memory, and beyond in
// incoming/, from where the bucket copies it. The other way, a file of this
// process's, would ask for as much disk as jobs may send from replicas that have
// none.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/nimbus-ci/nimbus/internal/blob"
)

const (
	visible  = "blobs/"
	incoming = "incoming/"
)

// Store implements blob.Store, blob.Presigner and blob.Sweeper.
type Store struct {
	cfg Config
	// once does each request once: who repeats calls stands in front of the
	// store. parts repeats a few times what only this room can: a part that it
	// still has, of a content that nobody can read again.
	once, parts *minio.Core
	idle        *http.Transport
	puts        chan struct{} // a place for each Put that may hold memory
}

var (
	_ blob.Store     = (*Store)(nil)
	_ blob.Presigner = (*Store)(nil)
	_ blob.Sweeper   = (*Store)(nil)
)

// partTries is how often a part is sent before a Put fails.
const partTries = 4

// Open checks the settings, and makes a store of them. It does not ask the bucket:
// Ping does. Codes: invalid.
func Open(cfg Config) (*Store, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	once, err := cfg.client(transport, 1)
	if err != nil {
		return nil, err
	}
	parts, err := cfg.client(transport, partTries)
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, once: once, parts: parts, idle: transport, puts: make(chan struct{}, cfg.Puts)}, nil
}

// Close closes the connections that wait for the next request.
func (s *Store) Close() error {
	s.idle.CloseIdleConnections()
	return nil
}

// object is the name of a blob in the bucket.
func (s *Store) object(key string) string { return s.cfg.Prefix + visible + key }

// call does one short request within its time.
func (s *Store) call(ctx context.Context, doing string, do func(context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	return told(ctx, doing, do(within))
}

// Ping tells whether the bucket is there for us.
func (s *Store) Ping(ctx context.Context) error {
	return s.call(ctx, "look for the bucket", func(ctx context.Context) error {
		there, err := s.once.BucketExists(ctx, s.cfg.Bucket)
		if err == nil && !there {
			return minio.ErrorResponse{Code: minio.NoSuchBucket, StatusCode: http.StatusNotFound}
		}
		return err
	})
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (size int64, err error) {
	if err := blob.CheckKey(key); err != nil {
		return 0, err
	}
	err = s.call(ctx, "stat blob", func(ctx context.Context) error {
		info, err := s.once.StatObject(ctx, s.cfg.Bucket, s.object(key), minio.StatObjectOptions{})
		size = info.Size
		return err
	})
	return size, missing(key, err)
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	return s.remove(ctx, s.object(key))
}

func (s *Store) remove(ctx context.Context, object string) error {
	err := s.call(ctx, "delete blob", func(ctx context.Context) error {
		return s.once.RemoveObject(ctx, s.cfg.Bucket, object, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, errMissing) {
		return nil
	}
	return err
}

// List implements blob.Store. What others have put among the blobs, under names
// that are no keys, is not told.
func (s *Store) List(ctx context.Context, prefix, after string, most int) (found []blob.Listed, err error) {
	prefix, after, most, err = blob.CheckList(prefix, after, most)
	if err != nil {
		return nil, err
	}
	opts := minio.ListObjectsOptions{Prefix: s.object(prefix), Recursive: true, MaxKeys: most}
	if after != "" {
		opts.StartAfter = s.object(after)
	}
	err = s.call(ctx, "list blobs", func(ctx context.Context) error {
		for info := range s.once.ListObjectsIter(ctx, s.cfg.Bucket, opts) {
			if info.Err != nil {
				return info.Err
			}
			key := info.Key[min(len(s.object("")), len(info.Key)):]
			if blob.CheckKey(key) == nil {
				found = append(found, blob.Listed{Key: key, Size: info.Size, ModifiedAt: info.LastModified})
			}
			if len(found) == most {
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// PresignGet implements blob.Presigner.
func (s *Store) PresignGet(ctx context.Context, key string, expires time.Duration) (link string, err error) {
	if err := blob.CheckKey(key); err != nil {
		return "", err
	}
	err = s.call(ctx, "sign a link", func(ctx context.Context) error {
		u, err := s.once.PresignedGetObject(ctx, s.cfg.Bucket, s.object(key), expires, nil)
		if err == nil {
			link = u.String()
		}
		return err
	})
	return link, err
}

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	return s.get(ctx, key, "")
}

// OpenRange implements blob.Store.
func (s *Store) OpenRange(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	if err := blob.CheckKey(key); err != nil {
		return nil, err
	}
	if offset > 0 && n > 0 || offset == 0 && n != 0 {
		r, _, err := s.get(ctx, key, span(offset, n))
		if !errors.Is(err, errNoSuchRange) {
			return r, err
		}
	}
	// S3 has no range without a byte, and no word for one at the very end.
	size, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if n, err = blob.CheckRange(size, offset, n); err != nil {
		return nil, err
	}
	if n == 0 {
		return nothing{http.NoBody, size}, nil
	}
	r, _, err := s.get(ctx, key, span(offset, n))
	return r, err
}

// nothing is no byte of a blob.
type nothing struct {
	io.ReadCloser

	size int64 // of the blob
}

// BlobSize implements blob.Sized.
func (n nothing) BlobSize() (int64, bool) { return n.size, true }

// span is a range as HTTP's header has it.
func span(offset, n int64) string {
	last := offset + n - 1
	switch {
	case n < 0 && offset == 0:
		return ""
	case n < 0 || last < offset: // the sum is more than there are numbers
		return fmt.Sprintf("bytes=%d-", offset)
	}
	return fmt.Sprintf("bytes=%d-%d", offset, last)
}

// get opens a blob, or a range of it, and tells how many bytes come.
func (s *Store) get(ctx context.Context, key, span string) (io.ReadCloser, int64, error) {
	if err := blob.CheckKey(key); err != nil {
		return nil, 0, err
	}
	var opts minio.GetObjectOptions
	if span != "" {
		opts.Set("Range", span)
	}
	// The answer has to begin within the time of a call; then it may last as long
	// as bytes come.
	within, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(s.cfg.CallTimeout, cancel)
	body, info, header, err := s.once.GetObject(within, s.cfg.Bucket, s.object(key), opts)
	if !late.Stop() && err == nil {
		body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, 0, missing(key, told(ctx, "open blob", err))
	}
	c := &content{ctx: ctx, body: body, end: cancel, size: info.Size}
	if span != "" {
		c.size = wholeSize(header.Get("Content-Range"))
	}
	return c, info.Size, nil
}

// wholeSize is what an answer with a range of an object says how large that is, -1
// where it does not.
func wholeSize(contentRange string) int64 {
	_, text, _ := strings.Cut(contentRange, "/")
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return size
}

// content is what comes of a blob.
type content struct {
	ctx  context.Context
	body io.ReadCloser
	end  context.CancelFunc
	size int64 // of the blob; -1: not told
}

// BlobSize implements blob.Sized.
func (c *content) BlobSize() (int64, bool) { return c.size, c.size >= 0 }

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, told(c.ctx, "read blob", err)
}

// Close implements io.Closer.
func (c *content) Close() error {
	c.end()
	return c.body.Close()
}
