package library

import (
	"context"
	"sync"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
)

// flight is one conversion that several jobs wait for.
type flight struct {
	done   chan struct{}
	cancel context.CancelFunc
	root   rootfs.Root
	err    error // both valid once done is closed

	waiters int // under the library's lock

	mu    sync.Mutex
	said  string
	notes []string      // that nobody may miss, at most one for each place that is asked
	news  chan struct{} // closed and replaced with each word
}

func (f *flight) tell(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = what
	close(f.news)
	f.news = make(chan struct{})
}

// note is tell for what a later word must not hide, nor the end.
func (f *flight) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notes = append(f.notes, what)
	close(f.news)
	f.news = make(chan struct{})
}

func (f *flight) now() (said string, notes []string, news <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said, f.notes, f.news
}

// shared converts an image, or waits for somebody who does already. The last
// one who stops waiting ends it.
func (l *Library) shared(ctx context.Context, canonical string, tell func(string)) (rootfs.Root, error) {
	f := l.join(canonical)
	defer l.leave(canonical, f)
	last, noted := "", 0
	for {
		said, notes, news := f.now()
		for ; noted < len(notes); noted++ {
			tell(notes[noted])
		}
		if said != last {
			tell(said)
			last = said
		}
		select {
		case <-f.done:
			_, notes, _ = f.now()
			for _, what := range notes[noted:] {
				tell(what)
			}
			return f.root, f.err
		case <-news:
		case <-ctx.Done():
			return rootfs.Root{}, context.Cause(ctx)
		}
	}
}

func (l *Library) join(canonical string) *flight {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.flights[canonical]
	if f == nil {
		ctx, cancel := context.WithCancel(context.Background())
		f = &flight{done: make(chan struct{}), news: make(chan struct{}), cancel: cancel}
		l.flights[canonical] = f
		go func() { // ends with its last waiter, or by itself
			f.root, f.err = l.make(ctx, canonical, f.tell, f.note)
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.flights[canonical] == f {
				delete(l.flights, canonical)
			}
			close(f.done)
		}()
	}
	f.waiters++
	return f
}

func (l *Library) leave(canonical string, f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.waiters--
	if f.waiters > 0 {
		return
	}
	f.cancel()
	if l.flights[canonical] == f {
		delete(l.flights, canonical) // who comes now begins anew
	}
}
