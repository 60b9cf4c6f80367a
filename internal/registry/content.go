package registry

import (
	"context"
	"fmt"
	"io"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
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
	return s.open(ctx, p.OrgID, b, offset, n)
}

func (s *Service) open(ctx context.Context, orgID string, b Blob, offset, n int64) (*blob.Segments, error) {
	c := &content{ctx: ctx, service: s, org: orgID, blob: b}
	if b.Path != "" {
		c.ahead = []Segment{{Size: b.Size, Path: b.Path}}
	}
	return blob.OpenSegments(offset, n, c.next) //nolint:wrapcheck // next's errors are ours
}

// segmentsAtOnce is how many segments are looked up at once.
const segmentsAtOnce = 256

// content is where what somebody reads of a blob is.
type content struct {
	ctx     context.Context //nolint:containedctx // an io.Reader gets none
	service *Service
	org     string
	blob    Blob
	ahead   []Segment
}

// next implements blob.Opener.
func (c *content) next(offset, most int64) (io.ReadCloser, int64, error) {
	if len(c.ahead) == 0 {
		var err error
		if c.ahead, err = c.service.store.RegistrySegments(c.ctx, c.blob.Content, offset, segmentsAtOnce); err != nil {
			return nil, 0, fmt.Errorf("look where a blob's content is: %w", err)
		}
	}
	if len(c.ahead) == 0 || c.ahead[0].Offset > offset {
		return nil, 0, nimbus.Errorf(nimbus.CodeInternal, "byte %d of %s is nowhere", offset, c.blob.Digest)
	}
	seg := c.ahead[0]
	c.ahead = c.ahead[1:]
	skip := offset - seg.Offset
	n := min(seg.Size-skip, most)
	if n <= 0 {
		return nil, 0, nil
	}
	r, err := blob.OpenPart(c.ctx, c.service.blobs, key(c.org, seg.Path), seg.Size, skip, n)
	if err != nil {
		return nil, 0, fmt.Errorf("open byte %d of %s: %w", offset, c.blob.Digest, c.lost(err))
	}
	return r, n, nil
}

// lost forgets a blob whose content is missing, as after an older database was put
// back, or has another size than it had, as after damage to a file system: it can be
// pushed anew.
func (c *content) lost(cause error) error {
	if nimbus.ErrorCode(cause) != nimbus.CodeNotFound || c.blob.Digest == "" {
		return cause
	}
	s := c.service
	s.log.ErrorContext(c.ctx, "the content of a blob is missing or damaged, it has to be pushed anew", "org", c.org, "digest", c.blob.Digest, "error", cause)
	err := s.after(c.ctx, func(ctx context.Context) error { return s.store.LoseRegistryBlob(ctx, c.org, c.blob) })
	s.known.forget()
	if err != nil {
		s.log.WarnContext(c.ctx, "it could not be forgotten, it is tried when it is opened again", "digest", c.blob.Digest, "error", err)
	}
	return NoBlob(c.blob.Digest)
}
