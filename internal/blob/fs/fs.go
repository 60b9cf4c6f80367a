// Package fs stores blobs in a folder.
package fs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// incoming is where blobs are written until they are whole.
const incoming = ".incoming"

// maxKey is the longest key.
const maxKey = 512

// Store implements blob.Store.
type Store struct {
	root *os.Root
}

var _ blob.Store = (*Store)(nil)

// Open opens the store in dir and removes what a crash left half-written.
func Open(dir string) (*Store, error) {
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
	return &Store{root: root}, nil
}

// Close closes the store.
func (s *Store) Close() error {
	if err := s.root.Close(); err != nil {
		return fmt.Errorf("close blob store: %w", err)
	}
	return nil
}

// checkKey refuses what would not be a plain path inside the folder.
func checkKey(key string) error {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/", r)
	}
	if len(key) > maxKey || !fs.ValidPath(key) || key == "." || strings.HasPrefix(key, ".") || strings.Contains(key, "/.") ||
		strings.ContainsFunc(key, func(r rune) bool { return !plain(r) }) {
		return nimbus.Errorf(nimbus.CodeInvalid, "%.80q is no blob key", key)
	}
	return nil
}

// Put implements blob.Store.
func (s *Store) Put(_ context.Context, key string, r io.Reader, maxBytes int64) (blob.Info, error) {
	if err := checkKey(key); err != nil {
		return blob.Info{}, err
	}
	temp, info, err := s.receive(r, maxBytes)
	if err != nil {
		return blob.Info{}, err
	}
	return info, s.publish(temp, key)
}

// PutAddressed implements blob.Store.
func (s *Store) PutAddressed(_ context.Context, prefix string, r io.Reader, maxBytes int64) (string, error) {
	if err := checkKey(prefix); err != nil {
		return "", err
	}
	temp, info, err := s.receive(r, maxBytes)
	if err != nil {
		return "", err
	}
	return info.SHA256, s.publish(temp, prefix+"/"+info.SHA256)
}

// receive writes a blob to where nobody looks, hashed on the way and synced.
func (s *Store) receive(r io.Reader, maxBytes int64) (temp string, info blob.Info, err error) {
	temp = path.Join(incoming, hex.EncodeToString(randomName()))
	f, err := s.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", info, fmt.Errorf("create blob: %w", err)
	}
	defer func() {
		if err != nil {
			_ = s.root.Remove(temp) // the next Open removes it too
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, maxBytes+1))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", info, fmt.Errorf("write blob: %w", err)
	}
	if n > maxBytes {
		return "", info, nimbus.Errorf(nimbus.CodeTooLarge, "more than %d bytes", maxBytes)
	}
	return temp, blob.Info{Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// publish shows a received blob under its key.
func (s *Store) publish(temp, key string) error {
	if err := s.root.MkdirAll(path.Dir(key), 0o700); err != nil {
		return fmt.Errorf("make blob folder: %w", err)
	}
	if err := s.root.Rename(temp, key); err != nil {
		return fmt.Errorf("publish blob: %w", err)
	}
	return s.syncDir(path.Dir(key))
}

func (s *Store) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return fmt.Errorf("sync blob folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync blob folder: %w", err)
	}
	return nil
}

// Open implements blob.Store.
func (s *Store) Open(_ context.Context, key string) (io.ReadCloser, int64, error) {
	if err := checkKey(key); err != nil {
		return nil, 0, err
	}
	f, err := s.root.Open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, notFound(key)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open blob: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open blob: %w", err), f.Close())
	}
	return f, info.Size(), nil
}

// Stat implements blob.Store.
func (s *Store) Stat(_ context.Context, key string) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	info, err := s.root.Stat(key)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return 0, notFound(key)
	}
	if err != nil {
		return 0, fmt.Errorf("stat blob: %w", err)
	}
	return info.Size(), nil
}

// Delete implements blob.Store.
func (s *Store) Delete(_ context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := s.root.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete blob: %w", err)
	}
	return nil
}

func notFound(key string) error {
	return nimbus.Errorf(nimbus.CodeNotFound, "no blob %q", filepath.Base(key))
}
