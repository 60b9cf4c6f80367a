package near

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// maxWishes bounds contents that are asked for, with those of which nobody has
// been told yet.
const maxWishes = 128

// wishes are contents that this host is asked to have before a job restores them.
type wishes struct {
	mu    sync.Mutex
	queue []nimbus.CacheWish
	known map[name]bool // that wait, or are fetched
	told  map[name]nimbus.CacheWarmState
	come  chan struct{} // holds one when the queue has grown
}

func newWishes() *wishes {
	return &wishes{known: map[name]bool{}, told: map[name]nimbus.CacheWarmState{}, come: make(chan struct{}, 1)}
}

// Wish asks the host to have contents. They are fetched one after the other, while
// Run runs; one that is asked for already is passed over, and so is what there is
// no room to remember: it is asked for again.
func (d *Door) Wish(all []nimbus.CacheWish) {
	w := d.wishes
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wish := range all {
		n, ok := nameOf(transfer.Entry{OrgID: wish.OrgID, ID: wish.EntryID})
		if _, told := w.told[n]; !ok || told || w.known[n] || len(w.known)+len(w.told) >= maxWishes {
			continue
		}
		w.known[n] = true
		w.queue = append(w.queue, wish)
	}
	select {
	case w.come <- struct{}{}:
	default:
	}
}

// Warmed is what became of contents, until Forget; up to most.
func (d *Door) Warmed(most int) []nimbus.CacheWarmed {
	w := d.wishes
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []nimbus.CacheWarmed
	for n, state := range w.told {
		if len(out) == most {
			break
		}
		out = append(out, nimbus.CacheWarmed{OrgID: n.org, EntryID: n.id, State: state})
	}
	return out
}

// Forget has what was told not be told again.
func (d *Door) Forget(told []nimbus.CacheWarmed) {
	w := d.wishes
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range told {
		delete(w.told, name{t.OrgID, t.EntryID})
	}
}

// next is the wish that was there first.
func (w *wishes) next() (wish nimbus.CacheWish, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return nimbus.CacheWish{}, false
	}
	wish, w.queue = w.queue[0], w.queue[1:]
	return wish, true
}

// end notes what became of one.
func (w *wishes) end(wish nimbus.CacheWish, state nimbus.CacheWarmState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := name{wish.OrgID, wish.EntryID}
	delete(w.known, n)
	w.told[n] = state
}

// bring begins to fulfil wishes; stop ends that.
func (d *Door) bring(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			for wish, ok := d.wishes.next(); ok; wish, ok = d.wishes.next() {
				state := nimbus.CacheOff
				if t := d.tier.Load(); t != nil {
					state = t.have(ctx, wish)
				}
				if ctx.Err() != nil {
					return // the next process of this host is asked again
				}
				d.wishes.end(wish, state)
			}
			select {
			case <-d.wishes.come:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// have fetches a content that is not here, as if a job had asked for it, and tells
// what became of it.
func (t *tier) have(ctx context.Context, wish nimbus.CacheWish) nimbus.CacheWarmState {
	n := name{wish.OrgID, wish.EntryID}
	r, err := requestOf(ctx, wish)
	switch {
	case err != nil:
		t.log.WarnContext(ctx, "a content that this host is asked for has no URL", "entry", wish.EntryID, "error", err)
		return nimbus.CacheFailed
	case !t.shelf.fits(wish.Bytes):
		return nimbus.CacheTooLarge
	}
	if h, ok := t.shelf.take(n, wish.Bytes); ok {
		t.shelf.giveBack(h)
		return nimbus.CacheHere
	}
	f, ok := t.joinOrFetch(r, n, wish.Bytes)
	if !ok {
		return nimbus.CacheNoRoom
	}
	defer f.leave()
	select {
	case <-f.ended:
	case <-ctx.Done():
		return nimbus.CacheFailed
	}
	switch err := f.failed(); {
	case err == nil:
		return nimbus.CacheHere
	case errors.Is(err, errNoRoom):
		return nimbus.CacheNoRoom
	default:
		t.log.WarnContext(ctx, "a content that this host is asked for can't be fetched", "entry", wish.EntryID, "error", err)
		return nimbus.CacheFailed
	}
}

var errNoPath = errors.New("it is no URL of an entry")

// requestOf is what a job would ask for. It leads to nothing but that entry.
func requestOf(ctx context.Context, wish nimbus.CacheWish) (*http.Request, error) {
	u, err := url.Parse(wish.Path)
	if err != nil || u.Host != "" || u.Scheme != "" || wish.Bytes <= 0 || u.EscapedPath() != "/_cache/entries/"+strconv.FormatInt(wish.EntryID, 10) {
		return nil, errNoPath
	}
	return http.NewRequestWithContext(ctx, http.MethodGet, wish.Path, http.NoBody) //nolint:wrapcheck // it is logged
}

// joinOrFetch finds a content that is on its way, or has it fetched where there is
// room without that something goes that is in use.
func (t *tier) joinOrFetch(r *http.Request, n name, size int64) (*fill, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f, ok := t.fills[n]; ok && f.size == size && f.enter() {
		return f, true
	}
	return t.fetch(r, n, size, t.shelf.claimUnused)
}

// failed is why a content did not come that was fetched.
func (f *fill) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
