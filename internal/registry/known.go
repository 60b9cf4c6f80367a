package registry

import (
	"container/list"
	"context"
	"sync"
	"time"
)

const (
	// epochFor is how long what is remembered is believed without asking whether
	// anything was removed: that is how long after it others may still pull what one
	// replica has removed.
	epochFor = time.Second
	// knownBytes and knownBlobs bound what is remembered.
	knownBytes = 16 << 20
	knownBlobs = 20_000
)

// named is content of a repository.
type named struct {
	Place

	digest Digest
}

// known is what this replica remembers of what never changes: manifests by their
// digest, never by a tag, and where blobs are. When anything was removed, all of
// it is forgotten.
type known struct {
	asking sync.Mutex // one asks for the epoch

	mu         sync.Mutex
	epoch      int64
	asked      time.Time
	generation int // grows when all is forgotten
	manifests  *lru[Manifest]
	blobs      *lru[Blob]
}

func newKnown() known {
	return known{manifests: newLRU[Manifest](knownBytes), blobs: newLRU[Blob](knownBlobs)}
}

// fresh tells whether what is remembered may be believed.
func (k *known) fresh(ctx context.Context, s *Service) bool {
	recent := func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return s.clock.Now().Sub(k.asked) < epochFor
	}
	if recent() {
		return true
	}
	k.asking.Lock()
	defer k.asking.Unlock()
	if recent() { // somebody else has asked
		return true
	}
	began := s.clock.Now()
	epoch, err := s.store.RegistryEpoch(ctx)
	if err != nil {
		return false // whoever asks for more finds out why
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if epoch != k.epoch {
		k.drop()
	}
	k.epoch, k.asked = epoch, began
	return true
}

// drop forgets all; k.mu is held.
func (k *known) drop() {
	k.generation++
	k.manifests.clear()
	k.blobs.clear()
}

// forget forgets all.
func (k *known) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
}

// current is the generation of what is written now.
func (k *known) current() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.generation
}

// manifest is one that is remembered, and of which generation what is read now is.
func (k *known) manifest(ctx context.Context, s *Service, n named) (m Manifest, ok bool, generation int) {
	fresh := k.fresh(ctx, s)
	k.mu.Lock()
	defer k.mu.Unlock()
	if fresh {
		m, ok = k.manifests.get(n)
	}
	return m, ok, k.generation
}

// blob is the same of blobs.
func (k *known) blob(ctx context.Context, s *Service, n named) (b Blob, ok bool, generation int) {
	fresh := k.fresh(ctx, s)
	k.mu.Lock()
	defer k.mu.Unlock()
	if fresh {
		b, ok = k.blobs.get(n)
	}
	return b, ok, k.generation
}

// addManifest remembers one that was read in a generation, unless that is over: it
// may have been removed since.
func (k *known) addManifest(n named, m Manifest, generation int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if generation == k.generation {
		k.manifests.add(n, m, int64(len(m.Content))+1024)
	}
}

func (k *known) addBlob(n named, b Blob, generation int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if generation == k.generation {
		k.blobs.add(n, b, 1)
	}
}

// lru is a memory whose least recently used values make room. Not safe for
// concurrent use.
type lru[V any] struct {
	most, has int64
	order     *list.List // of *remembered[V], the one used last at the head
	at        map[named]*list.Element
}

type remembered[V any] struct {
	name  named
	value V
	cost  int64
}

func newLRU[V any](most int64) *lru[V] {
	return &lru[V]{most: most, order: list.New(), at: map[named]*list.Element{}}
}

func (l *lru[V]) get(n named) (v V, ok bool) {
	e, ok := l.at[n]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return valueOf[V](e).value, true
}

func valueOf[V any](e *list.Element) *remembered[V] {
	r, _ := e.Value.(*remembered[V]) // nothing else is put in
	return r
}

func (l *lru[V]) add(n named, v V, cost int64) {
	if e, ok := l.at[n]; ok {
		l.remove(e)
	}
	if cost > l.most {
		return
	}
	l.at[n] = l.order.PushFront(&remembered[V]{n, v, cost})
	for l.has += cost; l.has > l.most; {
		l.remove(l.order.Back())
	}
}

func (l *lru[V]) remove(e *list.Element) {
	r := valueOf[V](e)
	l.order.Remove(e)
	delete(l.at, r.name)
	l.has -= r.cost
}

func (l *lru[V]) clear() {
	l.order.Init()
	clear(l.at)
	l.has = 0
}
