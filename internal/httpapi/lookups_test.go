package httpapi

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestLookupsAreSharedAndFresh: a thousand who ask while a look-up is under way share
// the next one, which began after they asked; that who was first leaves harms nobody.
func TestLookupsAreSharedAndFresh(t *testing.T) {
	t.Parallel()
	l := newLookups[int64](time.Minute, time.Millisecond)
	var looks atomic.Int64
	began, release := make(chan struct{}), make(chan struct{})
	look := func(ctx context.Context) (int64, error) {
		n := looks.Add(1)
		if n == 1 {
			close(began)
			<-release
		}
		return n, ctx.Err()
	}
	gone, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := l.do(gone, "a", look)
		first <- err
	}()
	<-began
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	var asked, all sync.WaitGroup
	for range 1000 {
		asked.Add(1)
		all.Go(func() {
			wanted := l.join(t.Context(), "a", look)
			asked.Done()
			if <-wanted.done; wanted.value != 2 || wanted.err != nil {
				t.Errorf("an answer of look-up %d, %v", wanted.value, wanted.err)
			}
		})
	}
	asked.Wait()
	if n, err := l.do(t.Context(), "b", func(context.Context) (int64, error) { return 7, nil }); n != 7 || err != nil {
		t.Errorf("of another key: %d, %v", n, err)
	}
	close(release)
	all.Wait()
	if n, err := l.do(t.Context(), "a", look); n != 3 || err != nil {
		t.Errorf("afterwards: %d, %v", n, err)
	}
	broken := errors.New("no answer")
	if _, err := l.do(t.Context(), "a", func(context.Context) (int64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("an error: %v", err)
	}
}
