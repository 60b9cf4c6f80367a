package limit_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/limit"
	"github.com/nimbus-ci/nimbus/internal/blob/mem"
)

// slow is a store each of whose calls takes a second, and that tells how many were
// under way at once at most.
func slow(t *testing.T) (_ blob.Store, most *int) {
	t.Helper()
	s := mem.New(1 << 20)
	if _, err := s.Put(t.Context(), "there", strings.NewReader("hello"), 5); err != nil {
		t.Fatal(err)
	}
	now, peak := 0, 0
	return blob.Around(s, blob.Layer{Do: func(ctx context.Context, _ blob.Call, run func(context.Context) error) error {
		now++
		peak = max(peak, now)
		defer func() { now-- }()
		time.Sleep(time.Second)
		return run(ctx)
	}}), &peak
}

func TestCallsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		behind, most := slow(t)
		s := limit.New(behind, limit.Config{Calls: 3})
		began := time.Now()
		done := make(chan error)
		for range 9 {
			go func() {
				_, err := s.Stat(t.Context(), "there")
				done <- err
			}()
		}
		for range 9 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if *most != 3 || time.Since(began) != 3*time.Second {
			t.Errorf("%d at once, 9 of a second in %v", *most, time.Since(began))
		}
	})
}

func TestWhoWaitsTooLongIsToldSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		behind, _ := slow(t)
		s := limit.New(behind, limit.Config{Calls: 1, Wait: 500 * time.Millisecond})
		go s.Stat(t.Context(), "there")
		synctest.Wait()
		began := time.Now()
		if _, err := s.Stat(t.Context(), "there"); nimbus.ErrorCode(err) != nimbus.CodeRateLimited || time.Since(began) != 500*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		time.Sleep(time.Second)
		if _, err := s.Stat(t.Context(), "there"); err != nil {
			t.Errorf("there is a place again: %v", err)
		}
		go s.Stat(t.Context(), "there")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := s.Stat(ctx, "there"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who gives up: %v", err)
		}
		time.Sleep(time.Second)
	})
}

// TestReadersHoldTheirPlaceUntilTheyAreClosed, once, beside the calls.
func TestReadersHoldTheirPlaceUntilTheyAreClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		behind, _ := slow(t)
		s := limit.New(behind, limit.Config{Calls: 1, Readers: 2, Wait: 10 * time.Second})
		open := func() (io.ReadCloser, error) { return s.OpenRange(t.Context(), "there", 1, 2) }
		first, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Open(t.Context(), "nothing"); nimbus.ErrorCode(err) != nimbus.CodeNotFound { // gives its place back
			t.Fatal(err)
		}
		second, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(); nimbus.ErrorCode(err) != nimbus.CodeRateLimited {
			t.Errorf("a third reader: %v", err)
		}
		if _, err := s.Put(t.Context(), "a", strings.NewReader("x"), 1); err != nil {
			t.Errorf("readers keep others from writing: %v", err)
		}
		if _, err := s.Stat(t.Context(), "there"); err != nil {
			t.Errorf("readers keep others from looking: %v", err)
		}
		for range 3 { // more than once is once
			first.Close()
		}
		third, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(); nimbus.ErrorCode(err) != nimbus.CodeRateLimited {
			t.Errorf("a place was given back twice: %v", err)
		}
		second.Close()
		third.Close()
	})
}

func TestWritersKeepNobodyFromLooking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(mem.New(1<<20), limit.Config{Calls: 1, Writers: 2, Readers: 1, Wait: time.Second})
		source, end := io.Pipe()
		for _, key := range []string{"a", "b"} {
			go s.Put(t.Context(), key, source, 10)
		}
		synctest.Wait()
		if _, err := s.PutAddressed(t.Context(), "c", strings.NewReader("x"), 1); nimbus.ErrorCode(err) != nimbus.CodeRateLimited {
			t.Errorf("a third writer: %v", err)
		}
		if _, err := s.List(t.Context(), "", "", 0); err != nil {
			t.Error(err)
		}
		end.Close()
		synctest.Wait()
		if _, err := s.PutAddressed(t.Context(), "c", strings.NewReader("x"), 1); err != nil {
			t.Errorf("there is a place again: %v", err)
		}
	})
}

func TestPerSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(mem.New(1), limit.Config{PerSecond: 10, Wait: time.Minute})
		call := func() {
			t.Helper()
			if _, err := s.List(t.Context(), "", "", 0); err != nil {
				t.Error(err)
			}
		}
		for _, step := range []struct {
			calls int
			took  time.Duration
		}{
			{10, 0},                     // a second's worth at once
			{5, 500 * time.Millisecond}, // and then by and by
		} {
			began := time.Now()
			for range step.calls {
				call()
			}
			if took := time.Since(began); took != step.took {
				t.Errorf("%d calls took %v, want %v", step.calls, took, step.took)
			}
		}
		time.Sleep(time.Hour) // saves up no more than a second's
		began := time.Now()
		for range 11 {
			call()
		}
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("11 after an hour took %v", took)
		}
		quick := limit.New(mem.New(1), limit.Config{PerSecond: 1, Wait: 100 * time.Millisecond})
		if _, err := quick.List(t.Context(), "", "", 0); err != nil {
			t.Error(err)
		}
		if _, err := quick.List(t.Context(), "", "", 0); nimbus.ErrorCode(err) != nimbus.CodeRateLimited {
			t.Errorf("a turn that comes too late: %v", err)
		}
		for range 100 { // and they take nobody's
			_, _ = quick.List(t.Context(), "", "", 0)
		}
		time.Sleep(time.Second)
		if _, err := quick.List(t.Context(), "", "", 0); err != nil {
			t.Errorf("a second after: %v", err)
		}
	})
}
