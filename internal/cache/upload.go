package cache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

const (
	// claimStep is how many bytes are counted at once, ahead of those that come.
	claimStep = 16 << 20
	// firstClaim is the first of them where the size is not known; each is as much
	// as all before. leastClaim is what is tried where there is no room for more.
	firstClaim = 64 << 10
	leastClaim = 4 << 10
	// firstOfKnown is the first of them where the size is known: what is only said
	// must not cost others their entries.
	firstOfKnown = 1 << 20
	// afterwards bounds what is put right once a call is over, whether or not its
	// caller still waits.
	afterwards = 30 * time.Second
)

// Reserve takes a place for an entry. size is what the client says that it will
// send, 0 for one that does not say; it is refused at once where that can't fit.
// Codes: invalid, forbidden, conflict, too_large, rate_limited.
func (s *Service) Reserve(ctx context.Context, c Caller, key, version string, size int64) (Upload, error) {
	if err := checkTheirs(version); err != nil {
		return Upload{}, err
	}
	p, err := c.place(key, version)
	if err != nil {
		return Upload{}, err
	}
	return s.reserve(ctx, c.JobID, p, size)
}

func (s *Service) reserve(ctx context.Context, jobID string, p Place, size int64) (Upload, error) {
	if size < 0 {
		return Upload{}, nimbus.Errorf(nimbus.CodeInvalid, "an entry can't have %d bytes", size)
	}
	if size > s.limits.Entry {
		s.uses(p.OrgID, p.Repo, Use{Refused: 1})
		return Upload{}, s.tooLarge(size)
	}
	u, err := s.store.ReserveCache(ctx, p, jobID, size, s.limits)
	if err != nil {
		if nimbus.ErrorCode(err) == nimbus.CodeTooLarge {
			s.uses(p.OrgID, p.Repo, Use{Refused: 1})
		}
		return Upload{}, fmt.Errorf("take a place in the cache: %w", err)
	}
	return u, nil
}

func (s *Service) tooLarge(size int64) error {
	return nimbus.Errorf(nimbus.CodeTooLarge, "an entry of %d bytes is too large, %d is the most", size, s.limits.Entry)
}

// Block ids as they are kept: clients' own and positions don't mix.
const (
	named = "b:"
	at    = "r:"
)

// PutBlock stores one block of an upload under the client's own id, "" for a
// content that is one block. The last one of an id wins, until the order is
// fixed. size is how many bytes it has, -1 where that is not known. Codes:
// invalid, not_found for an upload that is over, too_large.
func (s *Service) PutBlock(ctx context.Context, uploadID int64, block string, r io.Reader, size int64) error {
	if len(block) > maxBlockID {
		return nimbus.Errorf(nimbus.CodeInvalid, "the id of a block has %d bytes, %d is the most", len(block), maxBlockID)
	}
	_, err := s.put(ctx, uploadID, named+block, r, size)
	return err
}

// PutRange is PutBlock by position. Ranges may come in any order, and twice;
// together they must be the content, without gaps and overlaps.
func (s *Service) PutRange(ctx context.Context, uploadID int64, offset int64, r io.Reader, size int64) error {
	if offset < 0 || offset > s.limits.Entry {
		return nimbus.Errorf(nimbus.CodeInvalid, "a range can't begin at %d", offset)
	}
	_, err := s.put(ctx, uploadID, at+strconv.FormatInt(offset, 10), r, size)
	return err
}

func (s *Service) put(ctx context.Context, uploadID int64, block string, r io.Reader, size int64) (info blob.Info, err error) {
	most := min(int64(MaxBlock), s.limits.Entry)
	switch {
	case size > most:
		return info, nimbus.Errorf(nimbus.CodeTooLarge, "a block of %d bytes is too large, %d is the most", size, most)
	case size >= 0:
		most = size
	}
	in := &intake{ctx: ctx, service: s, id: uploadID, from: r, size: size, touched: s.clock.Now()}
	defer func() {
		// What was claimed is given back however this ends, but for a crash: then
		// it goes with the upload.
		if err != nil && in.claimed > 0 {
			err = errors.Join(err, s.after(ctx, func(ctx context.Context) error { return s.store.FreeCacheBytes(ctx, uploadID, in.claimed) }))
		}
	}()
	if err := in.claim(); err != nil {
		return info, s.refused(in, err)
	}
	name := newName()
	info, err = s.blobs.Put(ctx, blobKey(in.place.OrgID, uploadID, name), in, most)
	if in.err != nil {
		err = in.err
	}
	if err == nil && size >= 0 && info.Size != size {
		err = nimbus.Errorf(nimbus.CodeInvalid, "the block has %d bytes, and %d were announced", info.Size, size)
	}
	if err != nil {
		s.drop(ctx, in.place.OrgID, uploadID, name)
		return info, s.refused(in, fmt.Errorf("store a block: %w", err))
	}
	loose, err := s.store.PutCacheBlock(ctx, uploadID, Block{ID: block, Name: name, Size: info.Size, SHA256: info.SHA256}, in.claimed)
	if err != nil {
		if code := nimbus.ErrorCode(err); code == nimbus.CodeNotFound || code == nimbus.CodeTooLarge {
			s.credits.end(uploadID)
			s.drop(ctx, in.place.OrgID, uploadID, name)
		} else {
			// It may be written all the same, where only the answer was lost. So its
			// content stays, and goes as an orphan if nobody names it; what was claimed
			// is put right when the upload ends.
			in.claimed = 0
		}
		return info, fmt.Errorf("write down a block: %w", err)
	}
	s.uses(in.place.OrgID, in.place.Repo, Use{BytesIn: info.Size})
	s.credits.came(uploadID, info.Size, in.place, s.clock.Now())
	if loose != "" {
		s.drop(ctx, in.place.OrgID, uploadID, loose)
	}
	return info, nil
}

// refused counts a block for which there is no room, and returns why it was refused.
func (s *Service) refused(in *intake, err error) error {
	if in.place.OrgID != "" && nimbus.ErrorCode(err) == nimbus.CodeTooLarge {
		s.uses(in.place.OrgID, in.place.Repo, Use{Refused: 1})
	}
	return err
}

// drop removes contents that nobody needs. One that can't be removed now is
// removed as an orphan: the call has done what it was for.
func (s *Service) drop(ctx context.Context, orgID string, id int64, names ...string) {
	err := s.after(ctx, func(ctx context.Context) error {
		for _, name := range names {
			if err := s.blobs.Delete(ctx, blobKey(orgID, id, name)); err != nil {
				return err //nolint:wrapcheck // it is told below
			}
		}
		return nil
	})
	if err != nil {
		s.log.WarnContext(ctx, "a block that is not needed could not be removed, the sweep does it later", "entry", id, "error", err)
	}
}

// after does what must be done even if who asked has gone.
func (s *Service) after(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	return f(ctx)
}

// intake counts bytes against the quotas before they are taken in.
type intake struct {
	ctx     context.Context //nolint:containedctx // an io.Reader gets none
	service *Service
	id      int64
	from    io.Reader
	size    int64 // -1: not known
	place   Place
	claimed int64
	came    int64
	touched time.Time
	err     error // why no more is taken
}

// claim counts the next bytes.
func (in *intake) claim() error {
	step := int64(claimStep)
	if in.size >= 0 {
		step = min(step, in.size-in.claimed, max(in.claimed, firstOfKnown))
	} else { // not much more than may come
		step = min(step, max(in.claimed, firstClaim))
	}
	p, ahead, drawn := in.service.credits.draw(in.id, step)
	if drawn {
		in.place, in.claimed, in.touched = p, in.claimed+step, in.service.clock.Now()
		return nil
	}
	p, evicted, err := in.service.store.ClaimCacheBytes(in.ctx, in.id, step+ahead, in.service.limits)
	if ahead > 0 && nimbus.ErrorCode(err) == nimbus.CodeTooLarge {
		ahead = 0
		p, evicted, err = in.service.store.ClaimCacheBytes(in.ctx, in.id, step, in.service.limits)
	}
	if in.size < 0 && step > leastClaim && nimbus.ErrorCode(err) == nimbus.CodeTooLarge { // it may be over soon
		step = leastClaim
		p, evicted, err = in.service.store.ClaimCacheBytes(in.ctx, in.id, step, in.service.limits)
	}
	if err != nil {
		if p.OrgID != "" {
			in.place = p // whose quota it is
		}
		return fmt.Errorf("make room for a block: %w", err)
	}
	in.service.credits.add(in.id, ahead)
	in.place, in.claimed, in.touched = p, in.claimed+step, in.service.clock.Now()
	if evicted > 0 {
		in.service.removed()
		in.service.log.InfoContext(in.ctx, "entries made room in the cache", "org", p.OrgID, "repo", p.Repo, "entries", evicted)
	}
	return nil
}

// Read implements io.Reader.
func (in *intake) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	room := in.claimed - in.came
	if room == 0 && (in.size < 0 || in.claimed < in.size) {
		return in.readOn(p)
	}
	// Past a size that is known nothing is claimed: who stores it finds out that
	// there is more.
	if room > 0 {
		p = p[:min(int64(len(p)), room)]
	}
	return in.take(p)
}

// readOn reads past what was claimed: a byte, so that nothing is claimed where all
// has come, which is not kept where there is no room for it.
func (in *intake) readOn(p []byte) (int, error) {
	n, err := in.take(p[:min(len(p), 1)])
	if n > 0 {
		if in.err = in.claim(); in.err != nil {
			return 0, in.err
		}
	}
	return n, err
}

func (in *intake) take(p []byte) (int, error) {
	n, err := in.from.Read(p)
	in.came += int64(n)
	if n > 0 && in.service.clock.Now().Sub(in.touched) > in.service.limits.Idle/touches {
		in.touched = in.service.clock.Now()
		// That it is over ends it; a database that does not answer is found out by
		// what must be written.
		if touched := in.service.store.TouchCacheUpload(in.ctx, in.id); nimbus.ErrorCode(touched) == nimbus.CodeNotFound {
			in.err = touched
			return n, in.err
		}
	}
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}

// touches is how often an upload to which bytes come is noted, within the time
// that it may be idle.
const touches = 5

// newName is one that no other block has.
func newName() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// root is where all contents of caches are.
const root = "cache/"

// blobKey is where the content of a block is. Nothing of it is the client's.
func blobKey(orgID string, id int64, name string) string {
	return root + orgID + "/" + strconv.FormatInt(id, 10) + "/" + name
}
