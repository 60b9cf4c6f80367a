package pool

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// shelf makes sandboxes that are numbers. Its methods run one at a time, as Keep
// calls them, but for what the test reads when all rest.
type shelf struct {
	made    int
	dropped []int
	dead    map[int]bool
	fails   bool
	never   nimbus.Class // of which none can be made
}

func (s *shelf) Make(_ context.Context, c nimbus.Class) (int, error) {
	time.Sleep(time.Second)
	if s.fails || c == s.never {
		return 0, errors.New("it can't be made")
	}
	s.made++
	return s.made, nil
}

func (s *shelf) Renew(_ context.Context, n int) error {
	if s.dead[n] {
		return errors.New("it has ended")
	}
	return nil
}

func (s *shelf) Drop(_ context.Context, n int) { s.dropped = append(s.dropped, n) }

// keep runs a keeper in a bubble of synctest's, and returns what ends it.
func keep(t *testing.T, k *Keeper[int], free *nimbus.Capacity) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Keep(ctx, func() nimbus.Capacity { return *free }, func() {})
	}()
	return func() { cancel(); <-done }
}

func TestKeeper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{dead: map[int]bool{}}
		k := NewKeeper(s, Bounds{Sandboxes: 2, MemoryMiB: 128, IdleMiB: 64}, slog.New(slog.DiscardHandler))
		free := plenty.Free
		stop := keep(t, k, &free)
		one, other := class("one", 0).Class, class("other", 0).Class
		if _, ok := k.Take(one); ok {
			t.Error("there is one before anybody came")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := k.Warm(); len(got) != 1 || got[0] != one {
			t.Fatalf("%v wait", got)
		}
		if _, ok := k.Take(other); ok {
			t.Error("one of another class was given")
		}
		if n, ok := k.Take(one); !ok || n != 1 {
			t.Errorf("%d, %v was given", n, ok)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := k.Warm(); len(got) != 2 {
			t.Errorf("%v wait", got)
		}
		s.dead[2] = true // it ends while it waits
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := k.Warm(); len(got) != 2 || len(s.dropped) != 1 || s.dropped[0] != 2 {
			t.Errorf("%v wait, %v were dropped", got, s.dropped)
		}
		free = nimbus.Capacity{} // those that wait are kept on a full host
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := k.Warm(); len(got) != 2 {
			t.Errorf("%v wait on a full host", got)
		}
		stop()
		if got := k.Warm(); len(got) != 0 || len(s.dropped) != s.made-1 { // one is a job's
			t.Errorf("%v wait after the end, %d of %d were dropped", got, len(s.dropped), s.made)
		}
	})
}

func TestKeeperOfWhatCantBeMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{fails: true}
		k := NewKeeper(s, Bounds{Sandboxes: 2, MemoryMiB: 128, IdleMiB: 64}, slog.New(slog.DiscardHandler))
		free := plenty.Free
		stop := keep(t, k, &free)
		defer stop()
		one := class("one", 0).Class
		for range 3 {
			k.Take(one)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		k.mu.Lock()
		failures := k.known[one.ID()].failures
		k.mu.Unlock()
		if failures != 1 {
			t.Errorf("it was tried %d times within the first pause", failures)
		}
		s.fails = false
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(k.Warm()) == 0 {
			t.Error("it is not tried again")
		}
	})
}

// TestKeeperGivesPlacesAway: a class of which none can be made keeps none of
// another waiting for the only place.
func TestKeeperGivesPlacesAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		busy, other := class("busy", 0).Class, class("other", 0).Class
		s := &shelf{never: busy}
		k := NewKeeper(s, Bounds{Sandboxes: 1, MemoryMiB: 128, IdleMiB: 64}, slog.New(slog.DiscardHandler))
		free := plenty.Free
		stop := keep(t, k, &free)
		defer stop()
		for range 5 {
			k.Take(busy)
		}
		k.Take(other)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if got := k.Warm(); len(got) != 1 || got[0] != other {
			t.Errorf("%v wait", got)
		}
	})
}
