package httpapi

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// gatedReader answers once it is let.
type gatedReader struct {
	reads   atomic.Int64
	began   chan struct{} // closed with the first; nil: nobody waits for that
	release chan struct{}
}

func (r *gatedReader) Read(context.Context, nimbus.LogKey, int64, int) ([]nimbus.Line, error) {
	if r.reads.Add(1) == 1 && r.began != nil {
		close(r.began)
	}
	<-r.release
	return []nimbus.Line{{Seq: 7}}, nil
}

// waitedFor is a context that tells when its end is waited for: once a reader has
// asked, and not before.
type waitedFor struct {
	context.Context //nolint:containedctx // it is one

	waits func()
}

// Done implements context.Context.
func (w waitedFor) Done() <-chan struct{} {
	w.waits()
	return w.Context.Done()
}

// TestAThousandReadersShareARead: also when the one who came first has gone.
func TestAThousandReadersShareARead(t *testing.T) {
	t.Parallel()
	r := &gatedReader{began: make(chan struct{}), release: make(chan struct{})}
	s := newSharedLog(r)
	gone, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := s.Read(gone, nimbus.LogKey{}, 7, 500)
		first <- err
	}()
	<-r.began
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	var all, joined sync.WaitGroup
	for range 1000 {
		joined.Add(1)
		ctx := waitedFor{t.Context(), sync.OnceFunc(joined.Done)}
		all.Go(func() {
			lines, err := s.Read(ctx, nimbus.LogKey{}, 7, 500)
			if err != nil || len(lines) != 1 {
				t.Errorf("%v, %v", lines, err)
			}
		})
	}
	joined.Wait()
	close(r.release)
	all.Wait()
	if n := r.reads.Load(); n != 1 {
		t.Errorf("%d reads for 1000 readers", n)
	}
	other := &gatedReader{release: make(chan struct{})}
	close(other.release)
	s = newSharedLog(other)
	for _, key := range []nimbus.LogKey{{OrgID: "a", AttemptID: "x"}, {OrgID: "b", AttemptID: "x"}} {
		if _, err := s.Read(t.Context(), key, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	if other.reads.Load() != 2 {
		t.Error("two orgs shared a read")
	}
}

// lateReader is a log whose only line comes after its first read began.
type lateReader struct {
	reads   atomic.Int64
	began   chan struct{}
	release chan struct{}
}

func (r *lateReader) Read(_ context.Context, _ nimbus.LogKey, from int64, _ int) ([]nimbus.Line, error) {
	if r.reads.Add(1) == 1 {
		close(r.began)
		<-r.release
		return nil, nil
	}
	if from > 1 {
		return nil, nil
	}
	return []nimbus.Line{{Seq: 1}}, nil
}

// TestTheLastReadIsFresh: who is told that a log is over gets its last lines, although
// another's read, which began before they came, goes on.
func TestTheLastReadIsFresh(t *testing.T) {
	t.Parallel()
	r := &lateReader{began: make(chan struct{}), release: make(chan struct{})}
	s, key := newSharedLog(r), nimbus.LogKey{OrgID: "o", AttemptID: "a"}
	other := make(chan struct{})
	go func() {
		defer close(other)
		_, _ = s.Read(t.Context(), key, 1, 500) // as logs.Tail asks
	}()
	<-r.began
	defer func() { <-other }()
	time.AfterFunc(200*time.Millisecond, func() { close(r.release) })
	f := &counting{}
	err := logs.Tail(t.Context(), s, bus.NewInProcess(), key, 1, f)
	if err != nil || f.lines != 1 {
		t.Errorf("%d lines, %v", f.lines, err)
	}
}

// counting follows a log that is over.
type counting struct{ lines int }

func (*counting) Over(context.Context) (bool, error) { return true, nil }

func (*counting) Damaged(context.Context, *logs.DamagedError) error { return nil }

func (c *counting) Lines(page []nimbus.Line) error {
	c.lines += len(page)
	return nil
}
