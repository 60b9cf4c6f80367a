package blob

import (
	"errors"
	"fmt"
	"io"
)

// Opener opens what follows of a content that lies in several blobs, from a byte
// on: n bytes of it are in r, never more than most. An empty blob has none, and no
// r.
type Opener func(offset, most int64) (r io.ReadCloser, n int64, err error)

// Segments reads a content, or a part of it, that lies in several blobs, once and
// one after the other. Copied to an HTTP response by io.Copy, files go by sendfile.
type Segments struct {
	next   Opener
	offset int64 // of the next byte
	left   int64
	sent   int64
	open   io.ReadCloser // nil between blobs
	rest   int64         // of what is open
}

// OpenSegments begins to read n bytes from offset on. What can't be opened is found
// out at once.
func OpenSegments(offset, n int64, next Opener) (*Segments, error) {
	s := &Segments{next: next, offset: offset, left: n}
	if n == 0 {
		return s, nil
	}
	return s, s.advance()
}

// advance opens the blob in which the next byte is.
func (s *Segments) advance() (err error) {
	if err := s.Close(); err != nil {
		return err
	}
	s.open, s.rest, err = s.next(s.offset, s.left)
	return err
}

// Sent is how many bytes were read.
func (s *Segments) Sent() int64 { return s.sent }

// took notes that bytes of the open blob were read.
func (s *Segments) took(n int64) {
	s.offset, s.left, s.rest, s.sent = s.offset+n, s.left-n, s.rest-n, s.sent+n
}

// Read implements io.Reader.
func (s *Segments) Read(p []byte) (int, error) {
	for s.left > 0 && s.rest == 0 {
		if err := s.advance(); err != nil {
			return 0, err
		}
	}
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.open.Read(p[:min(int64(len(p)), s.rest)])
	s.took(int64(n))
	if errors.Is(err, io.EOF) {
		if err = nil; s.rest > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}

// WriteTo implements io.WriterTo. Blobs are handed to the writer as they are: what
// wraps a file keeps the kernel from sending it.
func (s *Segments) WriteTo(w io.Writer) (written int64, err error) {
	for s.left > 0 {
		if s.rest == 0 {
			if err := s.advance(); err != nil {
				return written, err
			}
			continue
		}
		n, err := io.Copy(w, s.open)
		written += n
		s.took(n)
		if err != nil {
			return written, fmt.Errorf("send a content: %w", err)
		}
		if s.rest > 0 {
			return written, io.ErrUnexpectedEOF
		}
	}
	return written, nil
}

// Close implements io.Closer.
func (s *Segments) Close() error {
	if s.open == nil {
		return nil
	}
	r := s.open
	s.open = nil
	if err := r.Close(); err != nil {
		return fmt.Errorf("close a segment: %w", err)
	}
	return nil
}
