package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/nimbus-ci/nimbus/internal/blob"
)

// content reads a part of a file. Its WriteTo gives the writer an
// *io.LimitedReader over an *os.File, which is what net and net/http know to
// send by sendfile; as anything else the bytes would pass through this process.
type content struct {
	part io.LimitedReader
	file *os.File
	size int64 // of the file
}

var (
	_ io.WriterTo = (*content)(nil)
	_ blob.Sized  = (*content)(nil)
)

// BlobSize implements blob.Sized.
func (c *content) BlobSize() (int64, bool) { return c.size, true }

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) { return c.part.Read(p) }

// WriteTo implements io.WriterTo.
func (c *content) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, &c.part) }

// Close implements io.Closer.
func (c *content) Close() error { return c.file.Close() }

// Open implements blob.Store.
func (s *Store) Open(_ context.Context, key string) (io.ReadCloser, int64, error) {
	f, size, err := s.open(key)
	if err != nil {
		return nil, 0, err
	}
	return &content{part: io.LimitedReader{R: f, N: size}, file: f, size: size}, size, nil
}

// OpenRange implements blob.Store.
func (s *Store) OpenRange(_ context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	f, size, err := s.open(key)
	if err != nil {
		return nil, err
	}
	if n, err = blob.CheckRange(size, offset, n); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("open blob: %w", err), f.Close())
	}
	return &content{part: io.LimitedReader{R: f, N: n}, file: f, size: size}, nil
}

func (s *Store) open(key string) (*os.File, int64, error) {
	if err := blob.CheckKey(key); err != nil {
		return nil, 0, err
	}
	f, err := s.root.Open(key)
	if missing(err) {
		return nil, 0, blob.NotFound(key)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open blob: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open blob: %w", err), f.Close())
	}
	if info.IsDir() {
		return nil, 0, errors.Join(blob.NotFound(key), f.Close())
	}
	return f, info.Size(), nil
}

// missing tells whether a file isn't there, nor a folder that it would be in.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
