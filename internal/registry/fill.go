package registry

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/registry/upstream"
)

// A blob comes from an upstream once for all who wait, and goes on to come for a
// while when they have gone. It comes in parts, which are stored like those of an upload, and
// who waits reads them as they are stored: but the last one only when all of it
// has the digest that it should have, so that nobody ever gets the whole of
// anything else.

const (
	// firstPart and part are the bytes of parts; a part also ends after partTime, so
	// that who waits is not taken for gone by what is between.
	firstPart, part = 1 << 20, 16 << 20
	partTime        = 10 * time.Second
	// slotWait is how long a blob waits for others to come before it does.
	slotWait = time.Minute
	// unwaitedFor is how long a blob goes on to come that nobody waits for: clients
	// that break off try again.
	unwaitedFor = time.Minute
)

// fills are the blobs that come now.
type fills struct {
	mu     sync.Mutex
	by     map[named]*fill
	count  int
	of     map[string]int // how many of them, by account
	ended  bool
	all    sync.WaitGroup
	ctx    context.Context //nolint:containedctx // of all of them: it ends with the service
	cancel context.CancelFunc
}

func newMirrors(inside []string) mirrors {
	isNamed := make(map[string]bool, len(inside))
	for _, address := range inside {
		isNamed[address] = true
	}
	ctx, cancel := context.WithCancel(context.Background())
	return mirrors{line: upstream.NewLine(func(address string) bool { return isNamed[address] }), slots: newSlots(fillShares), questions: newSlots(questionShares),
		orgs: map[string]*mirrorsOf{}, fills: fills{by: map[named]*fill{}, of: map[string]int{}, ctx: ctx, cancel: cancel}}
}

// stop gives up all that comes, and waits for it.
func (m *mirrors) stop() {
	m.fills.mu.Lock()
	m.fills.ended = true
	m.fills.mu.Unlock()
	m.fills.cancel()
	m.fills.all.Wait()
	m.line.Close()
}

// fill is a blob that comes.
type fill struct {
	begun  chan struct{} // closed once its size is known, or it has ended
	since  int64         // what the mirror was set to; see MirrorKey
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	waiting  int         // who wants it
	unwaited *time.Timer // gives it up when nobody has for a while
	over     bool        // it is given up: who wants it now begins anew
	size     int64       // -1: not known
	parts    []Segment
	err      error
	ended    bool
	grown    chan struct{} // closed, and made anew, with each change
}

func newFill(since int64, cancel context.CancelCauseFunc) *fill {
	return &fill{begun: make(chan struct{}), since: since, cancel: cancel, size: -1, grown: make(chan struct{})}
}

// enter is somebody who wants it, and leaves once. It is false for one that is
// given up.
func (f *fill) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false
	}
	f.waiting++
	if f.unwaited != nil {
		f.unwaited.Stop()
		f.unwaited = nil
	}
	return true
}

// leave is somebody who does not want it any more.
func (f *fill) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting--; f.waiting == 0 && !f.ended {
		f.unwaited = time.AfterFunc(unwaitedFor, func() {
			f.mu.Lock()
			unwanted := f.waiting == 0
			f.mu.Unlock()
			if unwanted {
				f.giveUp(nimbus.Errorf(nimbus.CodeUnavailable, "nobody waits for it any more"))
			}
		})
	}
}

// giveUp ends it.
func (f *fill) giveUp(why error) {
	f.mu.Lock()
	f.over = true
	f.mu.Unlock()
	f.cancel(why)
}

// changed gives up what comes from mirrors of an org that are not there any more, or
// lead somewhere else. there is what they were set to.
func (all *fills) changed(orgID string, there map[string]int64) {
	account := MirrorAccount(orgID)
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.of[account] == 0 {
		return
	}
	for of, f := range all.by {
		name, _, _ := splitMirror(of.Repo)
		if since, ok := there[name]; of.OrgID == account && (!ok || since > f.since) {
			f.giveUp(MirrorChanged())
		}
	}
}

// MirrorChanged is the refusal of what was asked for while a mirror was set to
// something else.
func MirrorChanged() error {
	return Refuse(NameUnknown, nimbus.CodeConflict, "the mirror was changed meanwhile")
}

// change changes a fill, and tells those who wait.
func (f *fill) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.grown)
	f.grown = make(chan struct{})
}

func (f *fill) begin(size int64) {
	f.change(func() { f.size = size })
	close(f.begun)
}

func (f *fill) add(s Segment) { f.change(func() { f.parts = append(f.parts, s) }) }

func (f *fill) end(err error) {
	f.change(func() {
		f.ended, f.err = true, err
		if f.unwaited != nil {
			f.unwaited.Stop()
		}
	})
	select {
	case <-f.begun:
	default:
		close(f.begun)
	}
}

// wait waits until a fill has ended.
func (f *fill) wait(ctx context.Context) error {
	for {
		f.mu.Lock()
		ended, err, grown := f.ended, f.err, f.grown
		f.mu.Unlock()
		if ended {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for an upstream: %w", context.Cause(ctx))
		case <-grown:
		}
	}
}

// partAt waits for the part in which a byte is.
func (f *fill) partAt(ctx context.Context, offset int64) (Segment, error) {
	for {
		f.mu.Lock()
		for _, s := range f.parts {
			if offset >= s.Offset && offset < s.Offset+s.Size {
				f.mu.Unlock()
				return s, nil
			}
		}
		ended, err, grown := f.ended, f.err, f.grown
		f.mu.Unlock()
		if err != nil {
			return Segment{}, err
		}
		if ended {
			return Segment{}, io.ErrUnexpectedEOF
		}
		select {
		case <-ctx.Done():
			return Segment{}, fmt.Errorf("wait for an upstream: %w", context.Cause(ctx))
		case <-grown:
		}
	}
}

// Blob is a blob that is here, or comes from the upstream from now on. Codes:
// not_found, forbidden, rate_limited, unavailable, too_large.
func (m *Mirrored) Blob(ctx context.Context, _ Place, digest Digest) (Blob, error) {
	s := m.service
	b, err := s.Blob(ctx, m.place, digest)
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		m.told("blob", err, "hit")
		return b, err
	}
	if m.look {
		b, err := m.lookAt(ctx, digest)
		if err != nil || b.Size >= 0 {
			m.told("blob", err, "fetched")
			return b, err
		}
	}
	b, err = m.come(ctx, digest)
	m.told("blob", err, "fetched")
	return b, err
}

// lookAt asks the upstream how large a blob is.
func (m *Mirrored) lookAt(ctx context.Context, digest Digest) (Blob, error) {
	leave, err := m.question()
	if err != nil {
		return Blob{}, err
	}
	defer leave()
	c, err := m.client(ctx)
	if err != nil {
		return Blob{}, err
	}
	size, err := c.Size(ctx, m.at, string(digest))
	return Blob{Digest: digest, Size: size}, m.heard(ctx, err, NoBlob(digest))
}

// come has a blob come. One of a few bytes is here when it is told.
func (m *Mirrored) come(ctx context.Context, digest Digest) (Blob, error) {
	f, err := m.join(digest)
	if err != nil {
		return Blob{}, err
	}
	defer f.leave()
	select {
	case <-ctx.Done():
		return Blob{}, fmt.Errorf("wait for an upstream: %w", context.Cause(ctx))
	case <-f.begun:
	}
	f.mu.Lock()
	size := f.size
	f.mu.Unlock()
	if size > firstPart {
		return Blob{Digest: digest, Size: size, coming: f}, nil
	}
	if err := f.wait(ctx); err != nil {
		return Blob{}, err
	}
	return m.service.Blob(ctx, m.place, digest)
}

// Open opens n bytes of a blob from offset on, which may still come.
func (m *Mirrored) Open(ctx context.Context, _ Place, b Blob, offset, n int64) (Content, error) {
	s := m.service
	if b.coming == nil {
		content, err := s.Open(ctx, m.place, b, offset, n)
		if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			return content, err
		}
		// Its content is lost: it comes anew.
		again, err := m.come(ctx, b.Digest)
		if err != nil {
			return nil, err
		}
		if again.Size != b.Size {
			return nil, nimbus.Errorf(nimbus.CodeInternal, "%s had %d bytes, and has %d", b.Digest, b.Size, again.Size)
		}
		if again.coming == nil {
			return s.Open(ctx, m.place, again, offset, n)
		}
		b = again
	}
	if offset < 0 || n < 0 || offset > b.Size || n > b.Size-offset {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "there are no %d bytes from %d on: the blob has %d", n, offset, b.Size)
	}
	if !b.coming.enter() {
		return nil, nimbus.Errorf(nimbus.CodeUnavailable, "%s does not come any more: ask again", b.Digest)
	}
	content, err := blob.OpenSegments(offset, n, func(at, most int64) (io.ReadCloser, int64, error) {
		seg, err := b.coming.partAt(ctx, at)
		if err != nil {
			return nil, 0, err
		}
		skip := at - seg.Offset
		take := min(seg.Size-skip, most)
		r, err := s.blobs.OpenRange(ctx, key(m.place.OrgID, seg.Path), skip, take)
		if err != nil {
			return nil, 0, fmt.Errorf("open byte %d of %s, which comes: %w", at, b.Digest, err)
		}
		return r, take, nil
	})
	if err != nil {
		b.coming.leave()
		return nil, err //nolint:wrapcheck // its errors are ours
	}
	return &wanted{Content: content, leave: sync.OnceFunc(b.coming.leave)}, nil
}

// wanted is the content of what comes, for somebody who leaves when it is closed.
type wanted struct {
	Content

	leave func()
}

// Close implements io.Closer.
func (w *wanted) Close() error {
	w.leave()
	return w.Content.Close() //nolint:wrapcheck // the content's own
}

// join is the coming of a blob: one for all who want it.
func (m *Mirrored) join(digest Digest) (*fill, error) {
	all, name := &m.service.mirrors.fills, named{m.place, digest}
	all.mu.Lock()
	defer all.mu.Unlock()
	if f, ok := all.by[name]; ok && f.since == m.mirror.Since && f.enter() {
		return f, nil
	}
	if all.ended {
		return nil, nimbus.Errorf(nimbus.CodeUnavailable, "the server is stopping")
	}
	if why := all.full(m.place.OrgID); why != noBound {
		return nil, m.busy(why, fillShares, "layers come already from")
	}
	ctx, cancel := context.WithCancelCause(all.ctx)
	f := newFill(m.mirror.Since, cancel)
	f.enter()
	all.by[name] = f
	all.count++
	all.of[m.place.OrgID]++
	all.all.Add(1)
	go func() {
		defer all.all.Done()
		defer cancel(nil)
		err := m.fill(ctx, f, digest)
		if of := m.keepOnly(ctx, digest); err == nil {
			err = of
		}
		if ctx.Err() != nil && err != nil {
			err = m.ended(ctx)
		} else if err != nil {
			m.service.log.WarnContext(ctx, "a blob of a mirror could not be fetched", "mirror", m.mirror.Name, "repo", m.at, "digest", digest, "error", err)
		}
		// First it is here, or not, for those who ask from now on.
		all.mu.Lock()
		if all.by[name] == f {
			delete(all.by, name)
		}
		all.count--
		if all.of[m.place.OrgID]--; all.of[m.place.OrgID] == 0 {
			delete(all.of, m.place.OrgID)
		}
		all.mu.Unlock()
		f.end(err)
	}()
	return f, nil
}

// full is what keeps one more from coming to an account, or waiting for that; all.mu is
// held.
func (all *fills) full(account string) bound {
	switch has := all.of[account]; {
	case has >= fillsWaitingOfOrg:
		return ofOrg
	case all.count >= fillsWaiting+fillsWaitingSpared, has > 0 && all.count >= fillsWaiting:
		return ofAll
	}
	return noBound
}

// ended tells why we did not ask to the end, which is not the upstream's fault.
func (m *Mirrored) ended(ctx context.Context) error {
	if m.service.mirrors.fills.ctx.Err() != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "the server is stopping")
	}
	return fmt.Errorf("ask an upstream: %w", context.Cause(ctx))
}

// busy is the refusal of what would be too much, and tells of what.
func (m *Mirrored) busy(why bound, most shares, what string) error {
	var err *nimbus.Error
	switch why {
	case ofMirror:
		err = nimbus.Errorf(nimbus.CodeRateLimited, "%d %s the upstream of the mirror %s, which is slow", most.ofMirror, what, m.mirror.Name)
	case ofOrg:
		err = nimbus.Errorf(nimbus.CodeRateLimited, "the org's mirrors have as much to fetch as an org may have at once").
			WithHint("one of its upstreams may be slow: nimbus registry mirror ls shows them")
	case ofAll, noBound:
		err = nimbus.Errorf(nimbus.CodeRateLimited, "the server's mirrors have too much to fetch now, for all orgs")
	}
	err.RetryAfter = 5 * time.Second
	return &RefusalError{TooManyRequests, err}
}
