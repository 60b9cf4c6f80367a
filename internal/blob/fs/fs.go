// Package fs stores blobs in a folder, which is one process's alone.
package fs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// incoming is where blobs are written until they are whole. No key begins so.
const incoming = ".incoming"

// copyBytes is how much is read, hashed and written at a time.
const copyBytes = 128 << 10

// Store implements blob.Store.
type Store struct {
	root    *os.Root
	reserve *reserve  // nil: none
	buffers sync.Pool // of *[copyBytes]byte
}

// Option changes how a store is opened.
type Option func(*Store)

// WithReserve has the store leave a part of its disk free (reserveOf), so that what
// it holds never takes the last of it: without any a database on the same disk can't
// even note that something is to be removed. Deletes go on.
func WithReserve() Option {
	return func(s *Store) { s.reserve = &reserve{root: s.root} }
}

var _ blob.Store = (*Store)(nil)

// Open opens the store in dir and removes what a crash left half-written.
func Open(dir string, options ...Option) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	if err := errors.Join(root.RemoveAll(incoming), root.Mkdir(incoming, 0o700)); err != nil {
		return nil, errors.Join(fmt.Errorf("open blob store: %w", err), root.Close())
	}
	s := &Store{root: root}
	for _, o := range options {
		o(s)
	}
	return s, nil
}

// Close closes the store.
func (s *Store) Close() error {
	if err := s.root.Close(); err != nil {
		return fmt.Errorf("close blob store: %w", err)
	}
	return nil
}

// Put implements blob.Store.
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

// put receives a blob and shows it under the key that it then has. Codes:
// unavailable for a disk without room, of which nimbus.IsFull tells.
func (s *Store) put(ctx context.Context, r io.Reader, maxBytes int64, key func(blob.Info) string) (_ blob.Info, err error) {
	if s.reserve != nil { // before anything is made
		if err := s.reserve.take(0); err != nil {
			return blob.Info{}, err
		}
	}
	temp := path.Join(incoming, rand.Text())
	info, err := s.receive(temp, blob.NewIntake(ctx, r, maxBytes))
	if err == nil {
		err = s.publish(temp, key(info))
	}
	if err != nil {
		_ = s.root.Remove(temp) // the next Open removes it too
		if nimbus.ErrorCode(err) == nimbus.CodeInternal && nimbus.IsFull(err) {
			err = full("the server's disk is full", err)
		}
		return blob.Info{}, err
	}
	return info, nil
}

// receive writes a blob to where nobody looks, hashed on the way and synced.
func (s *Store) receive(temp string, in *blob.Intake) (blob.Info, error) {
	f, err := s.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return blob.Info{}, fmt.Errorf("create blob: %w", err)
	}
	buffer, ok := s.buffers.Get().(*[copyBytes]byte)
	if !ok {
		buffer = new([copyBytes]byte)
	}
	defer s.buffers.Put(buffer)
	var to io.Writer = f
	if s.reserve != nil {
		to = sparing{f, s.reserve}
	}
	_, err = io.CopyBuffer(plainWriter{to}, in, buffer[:])
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return blob.Info{}, fmt.Errorf("write blob: %w", err)
	}
	return in.Info(), nil
}

// plainWriter hides a file's ReadFrom, which would copy by a buffer of its own.
type plainWriter struct{ io.Writer }

// publishTries is how often a folder may be removed, by who deletes the last blob
// of it, between its making and its use.
const publishTries = 100

// publish shows a received blob under its key, and returns once that is durable.
func (s *Store) publish(temp, key string) error {
	err := s.root.Rename(temp, key)
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < publishTries; try++ {
		if err := s.makeFolders(path.Dir(key)); err != nil {
			return err
		}
		err = s.root.Rename(temp, key)
	}
	if err != nil {
		return fmt.Errorf("publish blob: %w", err)
	}
	return s.syncDir(path.Dir(key))
}

// makeFolders makes a folder and those that it is in, each durable.
func (s *Store) makeFolders(dir string) error {
	if dir == "." {
		return nil
	}
	if err := s.makeFolders(path.Dir(dir)); err != nil {
		return err
	}
	switch err := s.root.Mkdir(dir, 0o700); {
	case err == nil:
		return s.syncDir(path.Dir(dir))
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist): // the latter: removed meanwhile, publish tries again
		return nil
	default:
		return fmt.Errorf("make blob folder: %w", err)
	}
}

func (s *Store) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) { // whoever removed it has removed the blob
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync blob folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync blob folder: %w", err)
	}
	return nil
}

// Stat implements blob.Store.
func (s *Store) Stat(_ context.Context, key string) (int64, error) {
	if err := blob.CheckKey(key); err != nil {
		return 0, err
	}
	info, err := s.root.Stat(key)
	if missing(err) || err == nil && info.IsDir() {
		return 0, blob.NotFound(key)
	}
	if err != nil {
		return 0, fmt.Errorf("stat blob: %w", err)
	}
	return info.Size(), nil
}

// Delete implements blob.Store. Folders that are left empty go too: a tenant's
// that is gone would stay for ever.
func (s *Store) Delete(_ context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	info, err := s.root.Lstat(key)
	if missing(err) || err == nil && info.IsDir() {
		return nil
	}
	if err := s.root.Remove(key); err != nil && !missing(err) {
		return fmt.Errorf("delete blob: %w", err)
	}
	for dir := path.Dir(key); dir != "." && s.root.Remove(dir) == nil; dir = path.Dir(dir) {
	}
	return nil
}
