package httpapi

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nimbus-ci/nimbus"
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
	var all, begun sync.WaitGroup
	for range 1000 {
		begun.Add(1)
		all.Go(func() {
			begun.Done()
			lines, err := s.Read(t.Context(), nimbus.LogKey{}, 7, 500)
			if err != nil || len(lines) != 1 {
				t.Errorf("%v, %v", lines, err)
			}
		})
	}
	begun.Wait()
	close(r.release)
	all.Wait()
	if n := r.reads.Load(); n > 100 { // who came after the answer reads again
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
