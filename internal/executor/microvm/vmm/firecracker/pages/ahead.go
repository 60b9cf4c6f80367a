package pages

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// copyAhead copies one batch of pages in that nobody waits for yet: as many as
// follow each other in the list and in memory.
func (s *server) copyAhead() error {
	if len(s.ahead) == 0 {
		return nil
	}
	first := uint64(s.ahead[0])
	i, r, ok := s.findOffset(first * s.page)
	if !ok || s.removed[i].has(first-r.Offset/s.page) {
		s.ahead = s.ahead[1:]
		return nil
	}
	n := uint64(1)
	for n < uint64(len(s.ahead)) && (n+1)*s.page <= uint64(len(s.buf)) {
		next := uint64(s.ahead[n])
		if next != first+n || next*s.page >= r.Offset+r.Size || s.removed[i].has(next-r.Offset/s.page) {
			break
		}
		n++
	}
	offset := first * s.page
	err := s.put(r.Base+offset-r.Offset, offset, n*s.page)
	if errors.Is(err, unix.EAGAIN) {
		return nil // something was removed: look at that first
	}
	s.ahead = s.ahead[n:]
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		s.stats.Prefetched += int(n)
	}
	return err
}

func (s *server) findOffset(offset uint64) (int, region, bool) {
	for i, r := range s.regions {
		if offset >= r.Offset && offset-r.Offset < r.Size {
			return i, r, true
		}
	}
	return 0, region{}, false
}

// recorder notes which pages are needed first, in order. A nil one notes
// nothing.
type recorder struct {
	until time.Time
	limit int
	pages []uint32
	done  func([]uint32) // nil once it was told
}

func (r *recorder) add(page uint32) {
	if r != nil && r.done != nil && len(r.pages) < r.limit {
		r.pages = append(r.pages, page)
	}
}

// remaining is for how many milliseconds to wait for an event: -1 is for ever.
// It ends the recording when it is time.
func (r *recorder) remaining() int {
	if r == nil || r.done == nil {
		return -1
	}
	left := time.Until(r.until)
	if left <= 0 {
		r.finish()
		return -1
	}
	return int(left.Milliseconds()) + 1
}

// finish tells what was recorded.
func (r *recorder) finish() {
	if r == nil || r.done == nil {
		return
	}
	r.done(r.pages)
	r.done, r.pages = nil, nil
}

// bitmap is a set of pages.
type bitmap []uint64

func newBitmap(n uint64) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) has(i uint64) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b bitmap) add(from, to uint64) {
	for i := from; i < to; i++ {
		b[i/64] |= 1 << (i % 64)
	}
}
