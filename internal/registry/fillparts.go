package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry/upstream"
)

// What a fill fetches is stored here, part by part, where there is room for it, and
// kept only if the mirror is still what it was when somebody asked.

// fill fetches a blob.
func (m *Mirrored) fill(ctx context.Context, f *fill, digest Digest) error {
	s := m.service
	wait, cancel := context.WithTimeout(ctx, slotWait)
	why := s.mirrors.slots.acquire(wait, m.mirror.OrgID, m.mirror.Name)
	cancel()
	if why != noBound {
		return m.busy(why, fillShares, "layers come already from")
	}
	defer s.mirrors.slots.release(m.mirror.OrgID, m.mirror.Name)
	if b, err := s.Blob(ctx, m.place, digest); nimbus.ErrorCode(err) != nimbus.CodeNotFound { // it has come since it was looked for
		if err == nil {
			f.begin(min(b.Size, firstPart)) // it is waited for, which takes no time
		}
		return err
	}
	c, err := m.client(ctx)
	if err != nil {
		return err
	}
	body, size, err := c.Blob(ctx, m.at, string(digest))
	if err := m.heard(ctx, err, NoBlob(digest)); err != nil {
		return err
	}
	defer body.Close()
	if size > s.limits.Blob {
		return Refuse(BlobUnknown, nimbus.CodeTooLarge, "the upstream's blob has %d bytes, %d is the most", size, s.limits.Blob)
	}
	expected := &expected{service: s, account: m.place.OrgID}
	defer expected.end()
	if err := expected.more(ctx, max(size, 0)); err != nil {
		return err
	}
	f.begin(size)
	if size >= 0 && size <= firstPart {
		s.observer.Fetched(size)
		return m.broken(ctx, digest, s.PutBlob(ctx, m.place, Chunk{Body: body, Size: size, At: -1}, digest))
	}
	return m.broken(ctx, digest, m.fillParts(ctx, f, body, size, digest, expected))
}

// broken tells what came of a download that had begun.
func (m *Mirrored) broken(ctx context.Context, digest Digest, err error) error {
	var of *upstream.Error
	var refused *RefusalError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &of):
		return m.heard(ctx, of, NoBlob(digest))
	case errors.As(err, &refused) && (refused.Reason == DigestInvalid || refused.Reason == SizeInvalid):
		return m.unusable("the blob "+string(digest), err)
	}
	return fmt.Errorf("keep a blob of a mirror: %w", err)
}

// fillParts stores what comes part by part, then makes a blob of it.
func (m *Mirrored) fillParts(ctx context.Context, f *fill, body io.Reader, size int64, digest Digest, expected *expected) (err error) {
	s := m.service
	u := Upload{ID: s.NewUpload(m.place), Place: m.place}
	defer func() {
		if err != nil && u.Segments > 0 {
			err = errors.Join(err, s.after(ctx, func(ctx context.Context) error { return s.store.EndRegistryUpload(ctx, u) }))
		}
	}()
	in := &counted{Reader: body}
	var last Segment
	for most := int64(firstPart); !in.ended && u.Size != size; most = part {
		if err := m.still(ctx); err != nil {
			return err
		}
		if u.Segments > 0 {
			f.add(last)
		}
		if size >= 0 {
			most = min(most, size-u.Size)
		}
		// Of what has a size there is room, unless another replica has filled it.
		if err := expected.more(ctx, most-min(most, expected.bytes)); err != nil {
			return err
		}
		grown, seg, err := s.appendPart(ctx, u, Chunk{Body: &partOf{from: in, left: most, until: s.clock.Now().Add(partTime), clock: s.clock},
			Size: -1, Most: most, At: -1, Algorithm: digest.Algorithm()})
		if err != nil {
			return err
		}
		u, last = grown, seg
		expected.came(seg.Size)
		s.observer.Fetched(seg.Size)
	}
	if size >= 0 && u.Size != size {
		return Refuse(SizeInvalid, nimbus.CodeInvalid, "%d bytes came, and %d were announced", u.Size, size)
	}
	if u.Segments == 0 { // and so there is no upload
		return s.PutBlob(ctx, m.place, Chunk{}, digest)
	}
	got, err := s.sumUp(ctx, u, digest.Algorithm())
	if err != nil {
		return err
	}
	if got != digest {
		return notThatDigest(digest, got)
	}
	if err := s.store.CommitRegistryUpload(ctx, u, digest); err != nil {
		return fmt.Errorf("make a blob of what came: %w", err)
	}
	f.add(last)
	return nil
}

// expected are the bytes of a blob that still come, for which there is room.
type expected struct {
	service *Service
	account string
	bytes   int64
}

// more makes room for n more; for none it looks whether there still is.
func (e *expected) more(ctx context.Context, n int64) error {
	if err := e.service.reserve(ctx, e.account, n); err != nil {
		return err
	}
	e.bytes += n
	return nil
}

// came notes that n of them are in the books.
func (e *expected) came(n int64) {
	n = min(n, e.bytes)
	e.service.unclaim(e.account, n)
	e.bytes -= n
}

func (e *expected) end() { e.came(e.bytes) }

// still tells whether the mirror is what it was when something was asked for: it may
// have been changed at another replica.
func (m *Mirrored) still(ctx context.Context) error {
	now, _, err := m.service.mirror(ctx, Place{m.mirror.OrgID, m.place.Repo})
	if err == nil && (now == nil || now.Since != m.mirror.Since) {
		return MirrorChanged()
	}
	return err
}

// keepOnly looks, once a blob is here, whether the mirror is what it was: what was
// here of another upstream has been removed by then, and this goes, too.
func (m *Mirrored) keepOnly(ctx context.Context, digest Digest) error {
	s := m.service
	return s.after(ctx, func(ctx context.Context) error {
		rows, err := s.store.RegistryMirrors(ctx, m.mirror.OrgID, mostMirrors)
		if err != nil {
			return fmt.Errorf("look whether a mirror was changed: %w", err)
		}
		if slices.ContainsFunc(rows, func(r MirrorRow) bool { return r.MirrorKey == m.mirror.MirrorKey }) {
			return nil
		}
		_, _, err = s.store.EvictRegistryBlobs(ctx, []Loose{{Place: m.place, Digest: digest, UsedAt: WheneverUsed}})
		s.known.forget()
		if err != nil {
			return fmt.Errorf("remove what came of a mirror that was changed: %w", err)
		}
		return MirrorChanged()
	})
}

// counted is what comes, and whether that has ended.
type counted struct {
	io.Reader

	ended bool
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.ended = c.ended || errors.Is(err, io.EOF)
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}

// partOf is the next part of what comes.
type partOf struct {
	from  io.Reader
	left  int64
	until time.Time
	clock nimbus.Clock
	some  bool
}

// Read implements io.Reader.
func (p *partOf) Read(b []byte) (int, error) {
	if p.left <= 0 || p.some && p.clock.Now().After(p.until) {
		return 0, io.EOF
	}
	n, err := p.from.Read(b[:min(int64(len(b)), p.left)])
	p.left -= int64(n)
	p.some = p.some || n > 0
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}
