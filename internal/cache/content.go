package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nimbus-ci/nimbus"
)

// Content is an entry's content, or a part of it, that is read once. Copied to an
// HTTP response by io.Copy, files go by sendfile.
type Content interface {
	io.ReadCloser
	io.WriterTo
}

// Open opens the content of an entry, which was found or read before, from offset
// on, n bytes of it, all the rest when n is negative. It can be read to its end
// even if the entry is removed meanwhile. ctx must live as long as the content is
// read. Codes: not_found, invalid for what is not in it.
func (s *Service) Open(ctx context.Context, e Entry, offset, n int64) (Content, error) {
	if n < 0 {
		n = e.Size - offset
	}
	if offset < 0 || offset > e.Size || n < 0 || n > e.Size-offset {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "there are no %d bytes from %d on: the entry has %d", n, offset, e.Size)
	}
	ok, err := s.pin(ctx, e.ID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, nimbus.Errorf(nimbus.CodeNotFound, "there is no such entry in the cache")
	}
	c := &content{ctx: ctx, service: s, entry: e, offset: offset, left: n}
	s.pins.enter(c, s.clock.Now())
	// What can't be opened is found out before a status is sent.
	if n > 0 {
		if err := c.next(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// segmentsAtOnce is how many segments are read at once.
const segmentsAtOnce = 256

// content reads segments one after the other.
type content struct {
	ctx     context.Context //nolint:containedctx // an io.Reader gets none
	service *Service
	entry   Entry
	offset  int64 // of the next byte
	left    int64
	read    int64
	ahead   []Segment
	open    io.ReadCloser // nil between segments
	rest    int64         // of what is open
}

// next opens the segment in which the next byte is.
func (c *content) next() error {
	if len(c.ahead) == 0 {
		var err error
		if c.ahead, err = c.service.store.CacheSegments(c.ctx, c.entry.ID, c.offset, segmentsAtOnce); err != nil {
			return fmt.Errorf("read where an entry's content is: %w", err)
		}
		if len(c.ahead) == 0 {
			return c.broken()
		}
	}
	seg := c.ahead[0]
	c.ahead = c.ahead[1:]
	if seg.Offset > c.offset {
		return c.broken()
	}
	skip := c.offset - seg.Offset
	c.rest = min(seg.Size-skip, c.left)
	if c.rest <= 0 { // an empty block
		c.rest = 0
		return nil
	}
	var err error
	if c.open, err = c.service.blobs.OpenRange(c.ctx, blobKey(c.entry.OrgID, c.entry.ID, seg.Blob), skip, c.rest); err != nil {
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			return c.gone(err)
		}
		return fmt.Errorf("open byte %d of entry %d: %w", c.offset, c.entry.ID, err)
	}
	return nil
}

// gone removes an entry whose content is missing, as after an older database was
// put back: its key can be saved anew, instead of failing jobs until nobody looks
// for it any more.
func (c *content) gone(cause error) error {
	s := c.service
	s.log.ErrorContext(c.ctx, "the content of an entry of the cache is missing, the entry is removed", "org", c.entry.OrgID, "entry", c.entry.ID, "error", cause)
	err := s.after(c.ctx, func(ctx context.Context) error { return s.store.RemoveCache(ctx, c.entry.OrgID, c.entry.ID) })
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		s.log.WarnContext(c.ctx, "it could not be removed, it is tried when it is opened again", "entry", c.entry.ID, "error", err)
	}
	return &nimbus.Error{Code: nimbus.CodeNotFound, Message: "the content of the entry is gone", Err: cause}
}

func (c *content) broken() error {
	return nimbus.Errorf(nimbus.CodeInternal, "byte %d of entry %d is nowhere", c.offset, c.entry.ID)
}

// took notes that bytes of the open segment were read.
func (c *content) took(n int64) {
	c.offset, c.left, c.rest, c.read = c.offset+n, c.left-n, c.rest-n, c.read+n
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
	return n, err
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
			return written, fmt.Errorf("send an entry's content: %w", err)
		}
		if c.rest > 0 {
			return written, io.ErrUnexpectedEOF
		}
	}
	return written, nil
}

// Close implements io.Closer.
func (c *content) Close() error {
	c.service.pins.leave(c)
	c.service.uses(c.entry.OrgID, c.entry.Repo, Use{BytesOut: c.read})
	c.read = 0
	return c.shut()
}
