package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

const (
	// chunkBytes is how much of a blob is held in memory at a time.
	chunkBytes = 1 << 20
	// orphanAfter is how long chunks without a blob are taken for an upload that
	// is under way.
	orphanAfter = 24 * time.Hour
	orphanBatch = 100
)

// Blobs keeps workspaces in the database, for replicas that have no disk in
// common.
type Blobs struct{ store *Store }

// Blobs returns the store of blobs.
func (s *Store) Blobs() *Blobs { return &Blobs{store: s} }

// PutAddressed stores what r holds under prefix + "/" + its SHA-256, and returns
// that. It is never seen half-written. Codes: too_large.
func (b *Blobs) PutAddressed(ctx context.Context, prefix string, r io.Reader, maxBytes int64) (string, error) {
	id := nimbus.NewID("blob", time.Now())
	sum, size, err := b.putChunks(ctx, id, r, maxBytes)
	if err != nil {
		return "", errors.Join(err, b.dropChunks(context.WithoutCancel(ctx), id))
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	key, known := path.Join(prefix, digest), false
	err = b.store.write(ctx, func(t *tx) error {
		_, err := t.Blob(ctx, key)
		if known = err == nil; known {
			return nil
		}
		return t.PutBlob(ctx, gen.PutBlobParams{Key: key, ID: id, Size: size, Sha256: digest, AddedAt: micros(t.now)})
	})
	if err != nil || known { // the same content is there already
		err = errors.Join(err, b.dropChunks(context.WithoutCancel(ctx), id))
	}
	return digest, err
}

func (b *Blobs) putChunks(ctx context.Context, id string, r io.Reader, maxBytes int64) (hash.Hash, int64, error) {
	sum, size, chunk := sha256.New(), int64(0), make([]byte, chunkBytes)
	for n := int64(0); ; n++ {
		read, err := io.ReadFull(r, chunk)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return nil, 0, fmt.Errorf("read the content: %w", err)
		}
		if size += int64(read); size > maxBytes {
			return nil, 0, nimbus.Errorf(nimbus.CodeTooLarge, "it has more than %d MiB", maxBytes>>20)
		}
		if read > 0 || n == 0 {
			sum.Write(chunk[:read])
			body := bytes.Clone(chunk[:read])
			if body == nil {
				body = []byte{}
			}
			err := b.store.write(ctx, func(t *tx) error {
				return t.InsertChunk(ctx, gen.InsertChunkParams{ID: id, N: n, Body: body})
			})
			if err != nil {
				return nil, 0, err
			}
		}
		if last {
			return sum, size, nil
		}
	}
}

func (b *Blobs) dropChunks(ctx context.Context, id string) error {
	return b.store.write(ctx, func(t *tx) error { return t.DeleteChunks(ctx, id) })
}

// Open opens a blob. Codes: not_found.
func (b *Blobs) Open(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	var row gen.BlobRow
	err := b.store.read(ctx, func(t *tx) (err error) {
		row, err = t.Blob(ctx, key)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return &blobReader{ctx: ctx, store: b.store, id: row.ID, left: row.Size}, row.Size, nil
}

// blobReader reads a blob a chunk at a time, as long as its opener's context
// lives.
type blobReader struct {
	ctx   context.Context //nolint:containedctx // an io.Reader gets none
	store *Store
	id    string
	next  int64
	left  int64
	chunk []byte
}

// Read implements io.Reader.
func (r *blobReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(r.chunk) == 0 {
		err := r.store.read(r.ctx, func(t *tx) (err error) {
			r.chunk, err = t.Chunk(r.ctx, gen.ChunkParams{ID: r.id, N: r.next})
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("read chunk %d: %w", r.next, err)
		}
		r.next++
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	r.left -= int64(n)
	return n, nil
}

// Close implements io.Closer.
func (r *blobReader) Close() error { return nil }

// Sweep removes what uploads that never ended have left.
func (b *Blobs) Sweep(ctx context.Context) error {
	return b.store.write(ctx, func(t *tx) error {
		ids, err := t.OrphanChunks(ctx, gen.OrphanChunksParams{ID: nimbus.NewID("blob", t.now.Add(-orphanAfter)), Limit: orphanBatch})
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := t.DeleteChunks(ctx, id); err != nil {
				return err
			}
		}
		return nil
	})
}
