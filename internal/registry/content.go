package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nimbus-ci/nimbus"
)

// Content is a blob's content, or a part of it, that is read once. Copied to an
// HTTP response by WriteTo, files go by sendfile.
type Content interface {
	io.ReadCloser
	io.WriterTo
}

// Open opens n bytes of a blob from offset on. They can be read even if the blob
// is removed meanwhile. ctx must live as long as they are. Codes: not_found,
// invalid for what is not in it.
func (s *Service) Open(ctx context.Context, p Place, b Blob, offset, n int64) (Content, error) {
	if offset < 0 || n < 0 || offset > b.Size || n > b.Size-offset {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "there are no %d bytes from %d on: the blob has %d", n, offset, b.Size)
	}
	c := s.open(ctx, p.OrgID, b, offset, n)
	// What can't be opened is found out before a status is sent.
	if n > 0 {
		if err := c.next(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func (s *Service) open(ctx context.Context, orgID string, b Blob, offset, n int64) *content {
	c := &content{ctx: ctx, service: s, org: orgID, blob: b, offset: offset, left: n}
	if b.Path != "" {
		c.ahead = []Segment{{Size: b.Size, Path: b.Path}}
	}
	return c
}

// segmentsAtOnce is how many segments are looked up at once.
const segmentsAtOnce = 256

// content reads segments one after the other.
type content struct {
	ctx     context.Context //nolint:containedctx // an io.Reader gets none
	service *Service
	org     string
	blob    Blob
	offset  int64 // of the next byte
	left    int64
	ahead   []Segment
	open    io.ReadCloser // nil between segments
	rest    int64         // of what is open
}

// next opens the segment in which the next byte is.
func (c *content) next() error {
	if len(c.ahead) == 0 {
		var err error
		if c.ahead, err = c.service.store.RegistrySegments(c.ctx, c.blob.Content, c.offset, segmentsAtOnce); err != nil {
			return fmt.Errorf("look where a blob's content is: %w", err)
		}
	}
	if len(c.ahead) == 0 || c.ahead[0].Offset > c.offset {
		return nimbus.Errorf(nimbus.CodeInternal, "byte %d of %s is nowhere", c.offset, c.blob.Digest)
	}
	seg := c.ahead[0]
	c.ahead = c.ahead[1:]
	skip := c.offset - seg.Offset
	c.rest = max(0, min(seg.Size-skip, c.left))
	if c.rest == 0 {
		return nil
	}
	var err error
	if c.open, err = c.service.blobs.OpenRange(c.ctx, key(c.org, seg.Path), skip, c.rest); err != nil {
		return fmt.Errorf("open byte %d of %s: %w", c.offset, c.blob.Digest, c.lost(err))
	}
	return nil
}

// lost forgets a blob whose content is missing, as after an older database was put
// back: it can be pushed anew.
func (c *content) lost(cause error) error {
	if nimbus.ErrorCode(cause) != nimbus.CodeNotFound || c.blob.Digest == "" {
		return cause
	}
	s := c.service
	s.log.ErrorContext(c.ctx, "the content of a blob is missing, it has to be pushed anew", "org", c.org, "digest", c.blob.Digest, "error", cause)
	err := s.after(c.ctx, func(ctx context.Context) error { return s.store.LoseRegistryBlob(ctx, c.org, c.blob) })
	s.known.forget()
	if err != nil {
		s.log.WarnContext(c.ctx, "it could not be forgotten, it is tried when it is opened again", "digest", c.blob.Digest, "error", err)
	}
	return NoBlob(c.blob.Digest)
}

// took notes that bytes of the open segment were read.
func (c *content) took(n int64) {
	c.offset, c.left, c.rest = c.offset+n, c.left-n, c.rest-n
}

// shut closes the open segment.
func (c *content) shut() error {
	if c.open == nil {
		return nil
	}
	r := c.open
	c.open = nil
	if err := r.Close(); err != nil {
		return fmt.Errorf("close a segment: %w", err)
	}
	return nil
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	for c.left > 0 && c.rest == 0 {
		if err := errors.Join(c.shut(), c.next()); err != nil {
			return 0, err
		}
	}
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.open.Read(p[:min(int64(len(p)), c.rest)])
	c.took(int64(n))
	if errors.Is(err, io.EOF) {
		if err = nil; c.rest > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}

// WriteTo implements io.WriterTo. Segments are handed to the writer as they are:
// what wraps a file keeps the kernel from sending it.
func (c *content) WriteTo(w io.Writer) (written int64, err error) {
	for c.left > 0 {
		if c.rest == 0 {
			if err := errors.Join(c.shut(), c.next()); err != nil {
				return written, err
			}
			continue
		}
		n, err := io.Copy(w, c.open)
		written += n
		c.took(n)
		if err != nil {
			return written, fmt.Errorf("send a blob: %w", err)
		}
		if c.rest > 0 {
			return written, io.ErrUnexpectedEOF
		}
	}
	return written, nil
}

// Close implements io.Closer.
func (c *content) Close() error { return c.shut() }
