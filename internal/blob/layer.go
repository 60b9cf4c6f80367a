package blob

import (
	"context"
	"fmt"
	"io"
)

// Op is what is asked of a store, as metrics name it.
type Op string

// The calls of Store.
const (
	OpPut          Op = "put"
	OpPutAddressed Op = "put_addressed"
	OpOpen         Op = "open"
	OpOpenRange    Op = "open_range"
	OpStat         Op = "stat"
	OpList         Op = "list"
	OpDelete       Op = "delete"
)

// Writes tells whether it reads a source for as long as that takes.
func (o Op) Writes() bool { return o == OpPut || o == OpPutAddressed }

// Opens tells whether what it returns has to be closed.
func (o Op) Opens() bool { return o == OpOpen || o == OpOpenRange }

// Ops are all of them.
func Ops() []Op {
	return []Op{OpPut, OpPutAddressed, OpOpen, OpOpenRange, OpStat, OpList, OpDelete}
}

// Layer is what stands in front of a store. All fields but Do may be nil.
type Layer struct {
	// Do has a call run, or not, or again where that is possible: run fails where
	// it is not, because its source can't be read twice, with errors of code
	// internal.
	Do func(ctx context.Context, c Call, run func(context.Context) error) error
	// Source replaces what a Put reads.
	Source func(r io.Reader) io.Reader
	// Opened replaces what a call has opened.
	Opened func(r io.ReadCloser) io.ReadCloser
}

// Call is a call that Layer.Do has run.
type Call struct {
	Op   Op
	Once bool // it can't be run again: its source is gone when it was read
}

// Around returns a store behind a layer.
func Around(s Store, l Layer) Wrapper { return around{behind: s, layer: l} }

type around struct {
	behind Store
	layer  Layer
}

// Unwrap implements Wrapper.
func (a around) Unwrap() Store { return a.behind }

// Put implements Store.
func (a around) Put(ctx context.Context, key string, r io.Reader, maxBytes int64) (info Info, err error) {
	err = a.put(ctx, OpPut, r, func(ctx context.Context, r io.Reader) (err error) {
		info, err = a.behind.Put(ctx, key, r, maxBytes)
		return err
	})
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

// PutAddressed implements Store.
func (a around) PutAddressed(ctx context.Context, prefix string, r io.Reader, maxBytes int64) (sha256 string, err error) {
	err = a.put(ctx, OpPutAddressed, r, func(ctx context.Context, r io.Reader) (err error) {
		sha256, err = a.behind.PutAddressed(ctx, prefix, r, maxBytes)
		return err
	})
	if err != nil {
		return "", err
	}
	return sha256, nil
}

func (a around) put(ctx context.Context, op Op, r io.Reader, run func(context.Context, io.Reader) error) error {
	// What can seek may be read again from where it stands now.
	seeker, again := r.(io.Seeker)
	var start int64
	if again {
		var err error
		if start, err = seeker.Seek(0, io.SeekCurrent); err != nil { // a pipe, for example
			again = false
		}
	}
	runs := 0
	return a.layer.Do(ctx, Call{Op: op, Once: !again}, func(ctx context.Context) error {
		if runs++; runs > 1 {
			if !again {
				return fmt.Errorf("put blob: its source can't be read twice")
			}
			if _, err := seeker.Seek(start, io.SeekStart); err != nil {
				return fmt.Errorf("put blob again: %w", err)
			}
		}
		if a.layer.Source != nil {
			return run(ctx, a.layer.Source(r))
		}
		return run(ctx, r)
	})
}

// Open implements Store.
func (a around) Open(ctx context.Context, key string) (r io.ReadCloser, size int64, err error) {
	err = a.layer.Do(ctx, Call{Op: OpOpen}, func(ctx context.Context) (err error) {
		r, size, err = a.behind.Open(ctx, key)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return a.opened(r), size, nil
}

// OpenRange implements Store.
func (a around) OpenRange(ctx context.Context, key string, offset, n int64) (r io.ReadCloser, err error) {
	err = a.layer.Do(ctx, Call{Op: OpOpenRange}, func(ctx context.Context) (err error) {
		r, err = a.behind.OpenRange(ctx, key, offset, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a.opened(r), nil
}

func (a around) opened(r io.ReadCloser) io.ReadCloser {
	if a.layer.Opened == nil {
		return r
	}
	return a.layer.Opened(r)
}

// Stat implements Store.
func (a around) Stat(ctx context.Context, key string) (size int64, err error) {
	err = a.layer.Do(ctx, Call{Op: OpStat}, func(ctx context.Context) (err error) {
		size, err = a.behind.Stat(ctx, key)
		return err
	})
	return size, err
}

// List implements Store.
func (a around) List(ctx context.Context, prefix, after string, most int) (found []Listed, err error) {
	err = a.layer.Do(ctx, Call{Op: OpList}, func(ctx context.Context) (err error) {
		found, err = a.behind.List(ctx, prefix, after, most)
		return err
	})
	return found, err
}

// Delete implements Store.
func (a around) Delete(ctx context.Context, key string) error {
	return a.layer.Do(ctx, Call{Op: OpDelete}, func(ctx context.Context) error { return a.behind.Delete(ctx, key) })
}

// Watched returns a reader that tells how many bytes were read of r each time, and
// once when it is closed; either may be nil. It is an io.WriterTo where r is one,
// so that what the kernel copies it goes on to copy.
func Watched(r io.ReadCloser, read func(n int64), closed func()) io.ReadCloser {
	w := &watched{ReadCloser: r, read: read, closed: closed}
	if to, ok := r.(io.WriterTo); ok {
		return &watchedTo{watched: w, to: to}
	}
	return w
}

type watched struct {
	io.ReadCloser

	read   func(int64)
	closed func()
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.tell(int64(n))
	return n, err
}

// BlobSize implements Sized.
func (w *watched) BlobSize() (int64, bool) {
	if s, ok := w.ReadCloser.(Sized); ok {
		return s.BlobSize()
	}
	return 0, false
}

func (w *watched) tell(n int64) {
	if w.read != nil && n > 0 {
		w.read(n)
	}
}

// Close implements io.Closer.
func (w *watched) Close() error {
	if closed := w.closed; closed != nil {
		w.closed = nil
		defer closed()
	}
	return w.ReadCloser.Close()
}

type watchedTo struct {
	*watched

	to io.WriterTo
}

// WriteTo implements io.WriterTo.
func (w *watchedTo) WriteTo(to io.Writer) (int64, error) {
	n, err := w.to.WriteTo(to)
	w.tell(n)
	return n, err
}
