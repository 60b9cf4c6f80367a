package httpapi

import (
	"context"
	"sync"
	"time"
)

// lookups has many who ask for the same at the same time share the answer. Unlike one of
// a look-up that is under way, it is never older than the question: who comes meanwhile
// shares the next one.
type lookups[T any] struct {
	timeout time.Duration // of one look-up, which does not end with who asked first
	apart   time.Duration // from one to the next while there are always some who ask

	mu     sync.Mutex
	queues map[string]*lookupQueue[T]
}

type lookupQueue[T any] struct{ next *lookup[T] }

type lookup[T any] struct {
	done  chan struct{}
	value T // once done is closed
	err   error
}

func newLookups[T any](timeout, apart time.Duration) *lookups[T] {
	return &lookups[T]{timeout: timeout, apart: apart, queues: map[string]*lookupQueue[T]{}}
}

// do looks up what has a key, by whatever look of that key.
func (l *lookups[T]) do(ctx context.Context, key string, look func(context.Context) (T, error)) (value T, err error) {
	wanted := l.join(ctx, key, look)
	select {
	case <-wanted.done:
		return wanted.value, wanted.err
	case <-ctx.Done():
		return value, ctx.Err()
	}
}

func (l *lookups[T]) join(ctx context.Context, key string, look func(context.Context) (T, error)) *lookup[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	q, busy := l.queues[key]
	if !busy {
		q = &lookupQueue[T]{}
		l.queues[key] = q
	}
	if q.next == nil {
		q.next = &lookup[T]{done: make(chan struct{})}
	}
	wanted := q.next
	if !busy {
		go l.run(context.WithoutCancel(ctx), key, look) // ends when nobody asks
	}
	return wanted
}

// run looks up for as long as somebody asks.
func (l *lookups[T]) run(ctx context.Context, key string, look func(context.Context) (T, error)) {
	for wanted := l.take(key); wanted != nil; wanted = l.take(key) {
		began := time.Now()
		bounded, cancel := context.WithTimeout(ctx, l.timeout)
		wanted.value, wanted.err = look(bounded)
		cancel()
		close(wanted.done)
		if l.asked(key) { // more will have by then
			<-time.After(time.Until(began.Add(l.apart)))
		}
	}
}

func (l *lookups[T]) asked(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queues[key].next != nil
}

// take is the look-up that is to begin now: who asks from here on waits for the next.
func (l *lookups[T]) take(key string) *lookup[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[key]
	wanted := q.next
	if q.next = nil; wanted == nil {
		delete(l.queues, key)
	}
	return wanted
}
