package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
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
	c := &content{ctx: ctx, service: s, entry: e}
	s.pins.enter(c, s.clock.Now())
	if c.Segments, err = blob.OpenSegments(offset, n, c.next); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// segmentsAtOnce is how many segments are read at once.
const segmentsAtOnce = 256

// content is what somebody reads of an entry, which stays for as long.
type content struct {
	*blob.Segments

	ctx     context.Context //nolint:containedctx // an io.Reader gets none
	service *Service
	entry   Entry
	ahead   []Segment
	told    bool // that it was used
}

// next implements blob.Opener.
func (c *content) next(offset, most int64) (io.ReadCloser, int64, error) {
	if len(c.ahead) == 0 {
		var err error
		if c.ahead, err = c.service.store.CacheSegments(c.ctx, c.entry.ID, offset, segmentsAtOnce); err != nil {
			return nil, 0, fmt.Errorf("read where an entry's content is: %w", err)
		}
	}
	if len(c.ahead) == 0 || c.ahead[0].Offset > offset {
		return nil, 0, nimbus.Errorf(nimbus.CodeInternal, "byte %d of entry %d is nowhere", offset, c.entry.ID)
	}
	seg := c.ahead[0]
	c.ahead = c.ahead[1:]
	skip := offset - seg.Offset
	n := min(seg.Size-skip, most)
	if n <= 0 { // an empty block
		return nil, 0, nil
	}
	r, err := blob.OpenPart(c.ctx, c.service.blobs, blobKey(c.entry.OrgID, c.entry.ID, seg.Blob), seg.Size, skip, n)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nil, 0, c.gone(err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open byte %d of entry %d: %w", offset, c.entry.ID, err)
	}
	return r, n, nil
}

// gone removes an entry whose content is missing, as after an older database was
// put back, or damaged: its key can be saved anew, instead of failing jobs until nobody looks
// for it any more.
func (c *content) gone(cause error) error {
	s := c.service
	s.log.ErrorContext(c.ctx, "the content of an entry of the cache is missing or damaged, the entry is removed", "org", c.entry.OrgID, "entry", c.entry.ID, "error", cause)
	err := s.after(c.ctx, func(ctx context.Context) error { return s.store.RemoveCache(ctx, c.entry.OrgID, c.entry.ID) })
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		s.log.WarnContext(c.ctx, "it could not be removed, it is tried when it is opened again", "entry", c.entry.ID, "error", err)
	}
	return &nimbus.Error{Code: nimbus.CodeNotFound, Message: "the content of the entry is gone", Err: cause}
}

// Close implements io.Closer.
func (c *content) Close() error {
	c.service.pins.leave(c)
	if !c.told {
		c.told = true
		c.service.uses(c.entry.OrgID, c.entry.Repo, Use{BytesOut: c.Sent()})
	}
	return c.Segments.Close() //nolint:wrapcheck // it is the reader's own
}
