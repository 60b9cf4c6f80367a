// Package mem stores blobs in memory, for tests: what is put is gone with the
// process.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Store implements blob.Store. What is in it together is bounded.
type Store struct {
	most int64

	mu    sync.Mutex
	used  int64
	blobs map[string]held
}

// held is a blob. Its content is never written again.
type held struct {
	content    []byte
	modifiedAt time.Time
}

var _ blob.Store = (*Store)(nil)

// New returns an empty store of up to most bytes of content.
func New(most int64) *Store { return &Store{most: most, blobs: map[string]held{}} }

// Put implements blob.Store. Codes: too_large also when the store is full.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, maxBytes int64) (blob.Info, error) {
	if err := blob.CheckKey(key); err != nil {
		return blob.Info{}, err
	}
	return s.put(ctx, r, maxBytes, func(blob.Info) string { return key })
}

// PutAddressed implements blob.Store.
func (s *Store) PutAddressed(ctx context.Context, prefix string, r io.Reader, maxBytes int64) (string, error) {
	if err := blob.CheckAddressed(prefix); err != nil {
		return "", err
	}
	info, err := s.put(ctx, blob.Hashed(r), maxBytes, func(i blob.Info) string { return prefix + "/" + i.SHA256 })
	return info.SHA256, err
}

func (s *Store) put(ctx context.Context, r io.Reader, maxBytes int64, key func(blob.Info) string) (blob.Info, error) {
	in := blob.NewIntake(ctx, r, min(maxBytes, s.most))
	content, err := io.ReadAll(in)
	if err != nil {
		return blob.Info{}, fmt.Errorf("put blob: %w", err)
	}
	info := in.Info()
	s.mu.Lock()
	defer s.mu.Unlock()
	used := s.used - int64(len(s.blobs[key(info)].content)) + info.Size
	if used > s.most {
		return blob.Info{}, nimbus.Errorf(nimbus.CodeTooLarge, "more than %d bytes together", s.most)
	}
	s.used, s.blobs[key(info)] = used, held{content, time.Now()}
	return info, nil
}

// Open implements blob.Store.
func (s *Store) Open(_ context.Context, key string) (io.ReadCloser, int64, error) {
	b, err := s.find(key)
	if err != nil {
		return nil, 0, err
	}
	return content{bytes.NewReader(b.content), int64(len(b.content))}, int64(len(b.content)), nil
}

// content reads a blob, or a part of one.
type content struct {
	*bytes.Reader

	size int64 // of the blob
}

// BlobSize implements blob.Sized.
func (c content) BlobSize() (int64, bool) { return c.size, true }

// Close implements io.Closer.
func (content) Close() error { return nil }

// OpenRange implements blob.Store.
func (s *Store) OpenRange(_ context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	b, err := s.find(key)
	if err != nil {
		return nil, err
	}
	if n, err = blob.CheckRange(int64(len(b.content)), offset, n); err != nil {
		return nil, err
	}
	return content{bytes.NewReader(b.content[offset:][:n]), int64(len(b.content))}, nil
}

// Stat implements blob.Store.
func (s *Store) Stat(_ context.Context, key string) (int64, error) {
	b, err := s.find(key)
	return int64(len(b.content)), err
}

func (s *Store) find(key string) (held, error) {
	if err := blob.CheckKey(key); err != nil {
		return held{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[key]
	if !ok {
		return held{}, blob.NotFound(key)
	}
	return b, nil
}

// List implements blob.Store.
func (s *Store) List(_ context.Context, prefix, after string, most int) ([]blob.Listed, error) {
	prefix, after, most, err := blob.CheckList(prefix, after, most)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []blob.Listed
	for _, key := range slices.Sorted(maps.Keys(s.blobs)) {
		if len(found) < most && strings.HasPrefix(key, prefix) && key > after {
			found = append(found, blob.Listed{Key: key, Size: int64(len(s.blobs[key].content)), ModifiedAt: s.blobs[key].modifiedAt})
		}
	}
	return found, nil
}

// Delete implements blob.Store.
func (s *Store) Delete(_ context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= int64(len(s.blobs[key].content))
	delete(s.blobs, key)
	return nil
}
