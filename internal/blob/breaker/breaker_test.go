package breaker_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/breaker"
	"github.com/nimbus-ci/nimbus/internal/blob/mem"
)

// world is a breaker before a store that a test has fail.
type world struct {
	*breaker.Store

	err    error         // of all calls, nil: none
	block  chan struct{} // what a call waits for, nil: nothing
	panics bool
	calls  map[blob.Op]int // that reached the store
	log    strings.Builder
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{calls: map[blob.Op]int{}}
	behind := blob.Around(mem.New(1<<20), blob.Layer{Do: func(ctx context.Context, c blob.Call, run func(context.Context) error) error {
		w.calls[c.Op]++
		if w.block != nil {
			<-w.block
		}
		if w.panics {
			panic("a call")
		}
		if w.err != nil {
			return w.err
		}
		return run(ctx)
	}})
	w.Store = breaker.New(behind, breaker.Config{Log: slog.New(slog.NewTextHandler(&w.log, nil))})
	return w
}

// fail has so many calls fail with an error.
func (w *world) fail(t *testing.T, times int, err error) {
	t.Helper()
	w.err = err
	for range times {
		if _, got := w.Stat(t.Context(), "a"); !errors.Is(got, err) {
			t.Fatalf("%v, want %v", got, err)
		}
	}
}

func (w *world) is(t *testing.T, want breaker.State) {
	t.Helper()
	if got := w.State(); got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
}

var errAway error = nimbus.Errorf(nimbus.CodeUnavailable, "connection refused").WithHint("start it")

func TestOpensAndCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.is(t, breaker.Closed)
		w.fail(t, 2, errAway)
		w.is(t, breaker.Closed)
		w.fail(t, 1, errAway)
		w.is(t, breaker.Open)
		for _, call := range []func() error{
			func() error { _, err := w.Put(t.Context(), "a", strings.NewReader("x"), 1); return err },
			func() error { _, _, err := w.Open(t.Context(), "a"); return err },
			func() error { _, err := w.List(t.Context(), "", "", 0); return err },
			func() error { return w.Delete(t.Context(), "a") },
			func() error { return w.Check(t.Context()) },
		} {
			err := call()
			if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || nimbus.ErrorHint(err) != "start it" || nimbus.ErrorRetryAfter(err) != 5*time.Second || !errors.Is(err, errAway) {
				t.Errorf("while it is open: %v", err)
			}
			if own := (*nimbus.Error)(nil); !errors.As(err, &own) || strings.Contains(own.Message, "connection refused") {
				t.Errorf("callers read %q", own.Message) // whose cause is an operator's to know
			}
		}
		if n := len(w.calls); n != 1 || w.calls[blob.OpStat] != 3 {
			t.Errorf("calls came through: %v", w.calls)
		}
		time.Sleep(5*time.Second + 1)
		w.is(t, breaker.HalfOpen)
		w.fail(t, 1, errAway) // the one that tries
		w.is(t, breaker.Open)
		time.Sleep(5*time.Second + 1)
		w.is(t, breaker.HalfOpen)
		w.err = nil
		if _, err := w.Stat(t.Context(), "a"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Errorf("the store answers: %v", err)
		}
		w.is(t, breaker.Closed)
		if said := w.log.String(); strings.Count(said, "level=WARN") != 1 || strings.Count(said, "level=INFO") != 1 || !strings.Contains(said, "connection refused") {
			t.Errorf("the log says %s", said)
		}
	})
}

// TestWhatCounts: three in a row that say that the store is away, and nothing
// that others are to blame for.
func TestWhatCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, err := range map[string]error{
			"its caller gave up": context.Canceled, "its source failed": io.ErrUnexpectedEOF, "too large": nimbus.Errorf(nimbus.CodeTooLarge, "x"),
			"no such blob": nimbus.Errorf(nimbus.CodeNotFound, "x"), "busy": nimbus.Errorf(nimbus.CodeRateLimited, "x"), "invalid": nimbus.Errorf(nimbus.CodeInvalid, "x"),
		} {
			w := newWorld(t)
			w.fail(t, 10, err)
			if got := w.State(); got != breaker.Closed {
				t.Errorf("%s: %s", name, got)
			}
		}
		w := newWorld(t)
		for range 5 {
			w.fail(t, 2, errAway)
			w.fail(t, 1, nimbus.Errorf(nimbus.CodeNotFound, "x")) // an answer
		}
		w.is(t, breaker.Closed)
		w.fail(t, 2, errAway)
		w.fail(t, 5, context.Canceled) // no word
		w.fail(t, 1, errAway)
		w.is(t, breaker.Open)
	})
}

// TestDeadlines: a store that is silent lets callers' time run out. A write may
// have waited for its source.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.err = context.DeadlineExceeded
		for range 5 {
			if _, err := w.Put(t.Context(), "a", strings.NewReader("x"), 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		w.is(t, breaker.Closed)
		w.fail(t, 3, context.DeadlineExceeded)
		w.is(t, breaker.Open)
	})
}

// TestCheck finds out by itself that the store is away, and back: a replica that
// has nothing to do must not tell for ever what was.
func TestCheck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err := w.Check(t.Context()); err != nil {
			t.Error(err)
		}
		w.err = errAway
		for range 3 {
			if err := w.Check(t.Context()); !errors.Is(err, errAway) {
				t.Error(err)
			}
		}
		w.is(t, breaker.Open)
		asked := w.calls[blob.OpStat]
		if err := w.Check(t.Context()); !errors.Is(err, errAway) || w.calls[blob.OpStat] != asked {
			t.Errorf("while it is open: %v", err)
		}
		time.Sleep(5*time.Second + 1)
		w.err = nil
		if err := w.Check(t.Context()); err != nil {
			t.Error(err)
		}
		w.is(t, breaker.Closed)
	})
}

// TestOneTries: while half-open others are refused; and an upload, which may take
// long, lets something short try before it.
func TestOneTries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fail(t, 3, errAway)
		time.Sleep(5*time.Second + 1)
		w.err, w.block = nil, make(chan struct{})
		put := make(chan error, 1)
		go func() {
			_, err := w.Put(t.Context(), "a", strings.NewReader("x"), 1)
			put <- err
		}()
		synctest.Wait()
		if w.calls[blob.OpPut] != 0 || w.calls[blob.OpStat] != 4 {
			t.Errorf("who tries is %v", w.calls)
		}
		if _, err := w.List(t.Context(), "", "", 0); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
			t.Errorf("a second one tries: %v", err)
		}
		w.block <- struct{}{} // the short one is answered, the upload goes on
		synctest.Wait()
		w.is(t, breaker.Closed)
		if w.calls[blob.OpPut] != 1 {
			t.Errorf("the upload has not begun: %v", w.calls)
		}
		close(w.block)
		if err := <-put; err != nil {
			t.Error(err)
		}
	})
}

// TestAPanicFreesThePlace of the one that tries.
func TestAPanicFreesThePlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fail(t, 3, errAway)
		time.Sleep(5*time.Second + 1)
		w.panics = true
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_ = w.Delete(t.Context(), "a")
		}()
		w.is(t, breaker.HalfOpen)
		w.panics = false
		w.err = nil
		if _, err := w.List(t.Context(), "", "", 0); err != nil {
			t.Errorf("the next one: %v", err)
		}
	})
}
