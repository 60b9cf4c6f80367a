// Package meter tells what is asked of a blob store, and how it goes.
package meter

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Observer hears of it. Its methods return at once, and may be called
// concurrently.
type Observer interface {
	// BlobCalled: a call took so long, of an open until its reader was there. code
	// is "" where it did not fail.
	BlobCalled(op string, code nimbus.Code, took time.Duration)
	// BlobMoved: so many bytes more were read, or written.
	BlobMoved(written bool, bytes int64)
}

// New returns s with an observer.
func New(s blob.Store, o Observer) blob.Wrapper {
	wrote := func(n int64) { o.BlobMoved(true, n) }
	read := func(n int64) { o.BlobMoved(false, n) }
	return blob.Around(s, blob.Layer{
		Do: func(ctx context.Context, c blob.Call, run func(context.Context) error) error {
			began := time.Now()
			err := run(ctx)
			o.BlobCalled(string(c.Op), code(err), time.Since(began))
			return err
		},
		Source: func(r io.Reader) io.Reader {
			if u, ok := r.(blob.Unhashed); ok {
				return unhashed{source{r, wrote}, u}
			}
			return source{r, wrote}
		},
		Opened: func(r io.ReadCloser) io.ReadCloser { return blob.Watched(r, read, nil) },
	})
}

// code is an error's; who gave up has one too.
func code(err error) nimbus.Code {
	if errors.Is(err, context.Canceled) {
		return nimbus.CodeCancelled
	}
	return nimbus.ErrorCode(err)
}

// source tells what is read of a Put's.
type source struct {
	io.Reader

	read func(int64)
}

// unhashed goes on to be one.
type unhashed struct {
	source

	of blob.Unhashed
}

// Unhashed implements blob.Unhashed.
func (u unhashed) Unhashed() { u.of.Unhashed() }

// Read implements io.Reader.
func (s source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if n > 0 {
		s.read(int64(n))
	}
	return n, err
}
