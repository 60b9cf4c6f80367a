package runnerlog

import "time"

// record is what the runner writes pages for: a step, or the job.
type record struct {
	id    string
	pages map[int]*page // open, not read to their end yet
	next  int           // the page that is read
	first time.Time     // of its first line, once that is on disk
	begun bool          // a line of it was read
	step  *step         // whose it is, nil when that is not known
}

// peek finds out when the record was first written to, without reading on.
func (r *record) peek() {
	p := r.pages[r.next]
	if !r.first.IsZero() || r.begun || p == nil {
		return
	}
	head := make([]byte, len(byteOrderMark)+stampLength+1)
	n, _ := p.file.ReadAt(head, 0) // short while nothing is flushed
	if n == len(head) {
		r.first, _ = unstamp(head)
	}
}

// read passes on what is new. A page that another follows, or that the runner
// has removed, is whole.
func (r *record) read(buf []byte, show func(time.Time, line)) {
	for {
		p := r.pages[r.next]
		if p == nil {
			if !r.skip() {
				return
			}
			continue
		}
		whole := p.gone() || r.pages[r.next+1] != nil // before it is read
		err := p.read(buf, show)
		if err == nil && !whole {
			return
		}
		r.close(r.next, show)
		r.next++
	}
}

// skip goes on with the first page after one that was never seen.
func (r *record) skip() bool {
	next := 0
	for n := range r.pages {
		if n > r.next && (next == 0 || n < next) {
			next = n
		}
	}
	if next == 0 {
		return false
	}
	r.next = next
	return true
}

func (r *record) close(number int, show func(time.Time, line)) {
	r.pages[number].end(show)
	delete(r.pages, number)
}

// size is what is left to read, and maybe more.
func (r *record) size() (total int64) {
	for _, p := range r.pages {
		if info, err := p.file.Stat(); err == nil {
			total += info.Size()
		}
	}
	return total
}

// finish passes on a last line that never got its end.
func (r *record) finish(show func(time.Time, line)) {
	for r.pages[r.next] != nil {
		r.close(r.next, show)
		r.next++
	}
}
