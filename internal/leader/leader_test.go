package leader_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nimbus-ci/nimbus/internal/leader"
)

// books is one row of leaders, by the clock of the test.
type books struct {
	mu      sync.Mutex
	holder  string
	fence   int64
	expires time.Time
	away    map[string]bool // holders that the database does not answer
}

func (b *books) Lead(ctx context.Context, _, holder string, lease time.Duration) (int64, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away[holder] {
		return 0, false, context.DeadlineExceeded
	}
	if b.holder != holder && time.Now().Before(b.expires) {
		return 0, false, nil
	}
	if b.holder != holder {
		b.holder, b.fence = holder, b.fence+1
	}
	b.expires = time.Now().Add(lease)
	return b.fence, true, ctx.Err()
}

func (b *books) Resign(_ context.Context, _, holder string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holder == holder {
		b.expires = time.Time{}
	}
	return nil
}

// TestOneLeadsAndIsFollowed: of three replicas one works; when it can't reach
// the database it stops before its lease ends, and another works within 10 s.
func TestOneLeadsAndIsFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &books{away: map[string]bool{}}
		var working, most atomic.Int32
		terms := make(chan int64, 10)
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				leader.Elector{Store: b, Name: "test", Log: slog.New(slog.DiscardHandler)}.Run(ctx, func(ctx context.Context) {
					most.Store(max(most.Load(), working.Add(1)))
					term, _ := leader.TermOf(ctx)
					terms <- term.Fence
					<-ctx.Done()
					working.Add(-1)
				})
			})
		}
		if got := <-terms; got != 1 {
			t.Errorf("the first term is %d", got)
		}
		time.Sleep(time.Minute)
		b.mu.Lock()
		b.away[b.holder] = true
		b.mu.Unlock()
		lost := time.Now()
		if got := <-terms; got != 2 {
			t.Errorf("the second term is %d", got)
		}
		if took := time.Since(lost); took > 10*time.Second {
			t.Errorf("it took %v until another led", took)
		}
		stop()
		all.Wait()
		if most.Load() != 1 {
			t.Errorf("%d led at once", most.Load())
		}
	})
}

// TestResigning: who stops in order is followed at the next look.
func TestResigning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &books{away: map[string]bool{}}
		began := make(chan string, 2)
		run := func(ctx context.Context, name string, done *sync.WaitGroup) {
			done.Go(func() {
				leader.Elector{Store: b, Name: "test", Log: slog.New(slog.DiscardHandler)}.Run(ctx, func(ctx context.Context) {
					began <- name
					<-ctx.Done()
				})
			})
		}
		var all sync.WaitGroup
		first, stopFirst := context.WithCancel(t.Context())
		run(first, "first", &all)
		<-began
		second, stopSecond := context.WithCancel(t.Context())
		run(second, "second", &all)
		time.Sleep(time.Second)
		stopFirst()
		at := time.Now()
		if got := <-began; got != "second" || time.Since(at) > leader.Renew {
			t.Errorf("%s follows after %v", got, time.Since(at))
		}
		stopSecond()
		all.Wait()
	})
}
