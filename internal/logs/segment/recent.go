package segment

import (
	"container/list"
	"sync"
)

// Bounds of what is kept unpacked, for those who read a log page by page, and for
// the many who read along with one job.
const (
	recentBlocks = 64
	recentBytes  = 24 << 20
)

// blockKey names unpacked lines: a frame, or what was in memory at some time.
type blockKey struct {
	log         *attempt
	deleted     int
	first, rows int64
}

type unpacked struct {
	key   blockKey
	rows  []row
	bytes int
}

// recent keeps what was unpacked last.
type recent struct {
	mu    sync.Mutex
	byKey map[blockKey]*list.Element
	order *list.List // of unpacked, the last used first
	bytes int
}

func newRecent() *recent {
	return &recent{byKey: map[blockKey]*list.Element{}, order: list.New()}
}

func (r *recent) get(key blockKey) ([]row, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.byKey[key]
	if e == nil {
		return nil, false
	}
	r.order.MoveToFront(e)
	u, ok := e.Value.(unpacked)
	return u.rows, ok
}

func (r *recent) put(key blockKey, rows []row, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byKey[key] != nil || bytes > recentBytes/4 {
		return
	}
	r.byKey[key] = r.order.PushFront(unpacked{key, rows, bytes})
	r.bytes += bytes
	for r.bytes > recentBytes || r.order.Len() > recentBlocks {
		r.drop(r.order.Back())
	}
}

// forget drops what is kept of a log.
func (r *recent) forget(a *attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range r.byKey {
		if key.log == a {
			r.drop(e)
		}
	}
}

func (r *recent) drop(e *list.Element) {
	if u, ok := r.order.Remove(e).(unpacked); ok {
		delete(r.byKey, u.key)
		r.bytes -= u.bytes
	}
}
