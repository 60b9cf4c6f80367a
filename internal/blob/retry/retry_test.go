package retry_test

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
	"github.com/nimbus-ci/nimbus/internal/blob/mem"
	"github.com/nimbus-ci/nimbus/internal/blob/retry"
)

// failing is a store in memory each of whose calls fails so often first.
func failing(times int, err error) (blob.Store, *int) {
	calls := 0
	return blob.Around(mem.New(1<<20), blob.Layer{Do: func(ctx context.Context, _ blob.Call, run func(context.Context) error) error {
		failed := run(ctx) // a Put has read its source when it fails
		if calls++; calls <= times {
			return err
		}
		return failed
	}}), &calls
}

var errAway error = nimbus.Errorf(nimbus.CodeUnavailable, "away")

// calls are all of a store; each may be repeated.
func calls() map[blob.Op]func(context.Context, blob.Store) error {
	return map[blob.Op]func(context.Context, blob.Store) error{
		blob.OpPut: func(ctx context.Context, s blob.Store) error {
			info, err := s.Put(ctx, "a", strings.NewReader("hello"), 5)
			if err == nil && info.Size != 5 {
				return errors.New("half of it was put")
			}
			return err
		},
		blob.OpPutAddressed: func(ctx context.Context, s blob.Store) error {
			sum, err := s.PutAddressed(ctx, "cas", strings.NewReader("hello"), 5)
			if err == nil && !strings.HasPrefix(sum, "2cf24dba5fb0a30e26e8") {
				return errors.New("something else was put")
			}
			return err
		},
		blob.OpOpen: func(ctx context.Context, s blob.Store) error {
			_, _, err := s.Open(ctx, "there")
			return err
		},
		blob.OpOpenRange: func(ctx context.Context, s blob.Store) error {
			_, err := s.OpenRange(ctx, "there", 0, 1)
			return err
		},
		blob.OpStat: func(ctx context.Context, s blob.Store) error {
			_, err := s.Stat(ctx, "there")
			return err
		},
		blob.OpList: func(ctx context.Context, s blob.Store) error {
			_, err := s.List(ctx, "", "", 0)
			return err
		},
		blob.OpDelete: func(ctx context.Context, s blob.Store) error { return s.Delete(ctx, "there") },
	}
}

func TestRepeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := calls()
		for _, op := range blob.Ops() {
			for failures, want := range map[int]error{0: nil, 1: nil, 3: nil, 4: errAway, 100: errAway} {
				behind, n := failing(failures, errAway)
				if _, err := behind.(blob.Wrapper).Unwrap().Put(t.Context(), "there", strings.NewReader("x"), 1); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				err := all[op](t.Context(), retry.New(behind, retry.Policy{}))
				if !errors.Is(err, want) || want == nil && err != nil {
					t.Errorf("%s after %d failures: %v", op, failures, err)
				}
				if tries := min(failures+1, 4); *n != tries {
					t.Errorf("%s after %d failures: %d tries, want %d", op, failures, *n, tries)
				}
				// Pauses of about 100, 200 and 400 ms, each half as much more or less.
				if took := time.Since(began); failures == 0 && took != 0 || failures >= 3 && (took < 350*time.Millisecond || took > 1050*time.Millisecond) {
					t.Errorf("%s after %d failures took %v", op, failures, took)
				}
			}
		}
	})
}

func TestPausesAreNotAlike(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seen := map[time.Duration]bool{}
		for range 20 {
			behind, _ := failing(1, errAway)
			began := time.Now()
			if _, err := retry.New(behind, retry.Policy{}).List(t.Context(), "", "", 0); err != nil {
				t.Fatal(err)
			}
			seen[time.Since(began)] = true
		}
		if len(seen) < 10 {
			t.Errorf("20 callers came back at %d times", len(seen))
		}
	})
}

func TestWhatIsNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{
			nimbus.Errorf(nimbus.CodeNotFound, "not there"), nimbus.Errorf(nimbus.CodeTooLarge, "large"), nimbus.Errorf(nimbus.CodeRateLimited, "busy"),
			errors.New("a fault of ours"), context.Canceled,
		} {
			behind, n := failing(1, err)
			if _, got := retry.New(behind, retry.Policy{}).Stat(t.Context(), "a"); !errors.Is(got, err) || *n != 1 {
				t.Errorf("%d tries after %v: %v", *n, err, got)
			}
		}
		// A source that is gone, whatever it looks like.
		r, w := io.Pipe()
		go func() {
			_, _ = io.WriteString(w, "x")
			w.Close()
		}()
		behind, n := failing(1, errAway)
		if _, err := retry.New(behind, retry.Policy{}).Put(t.Context(), "a", r, 1); !errors.Is(err, errAway) || *n != 1 {
			t.Errorf("a pipe: %d tries, %v", *n, err)
		}
		behind, n = failing(1, errAway)
		if _, err := retry.New(behind, retry.Policy{}).Put(t.Context(), "a", unseekable{}, 1); !errors.Is(err, errAway) || *n != 1 {
			t.Errorf("what only says that it seeks: %d tries, %v", *n, err)
		}
	})
}

type unseekable struct{}

func (unseekable) Read([]byte) (int, error)       { return 0, io.EOF }
func (unseekable) Seek(int64, int) (int64, error) { return 0, errors.New("illegal seek") }

// TestAPutIsRepeatedFromWhereItsSourceStood: not from its beginning.
func TestAPutIsRepeatedFromWhereItsSourceStood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		behind, _ := failing(2, errAway)
		source := strings.NewReader("header, then the content")
		if _, err := io.CopyN(io.Discard, source, 8); err != nil {
			t.Fatal(err)
		}
		s := retry.New(behind, retry.Policy{})
		if _, err := s.Put(t.Context(), "a", source, 100); err != nil {
			t.Fatal(err)
		}
		r, _, err := s.Open(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if raw, err := io.ReadAll(r); err != nil || string(raw) != "then the content" {
			t.Errorf("%q, %v", raw, err)
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		behind, n := failing(100, errAway)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := retry.New(behind, retry.Policy{}).Stat(ctx, "a")
		if !errors.Is(err, context.DeadlineExceeded) || *n != 1 || time.Since(began) != 20*time.Millisecond {
			t.Errorf("%d tries in %v: %v", *n, time.Since(began), err)
		}
	})
}

func TestTheStoreMaySayWhen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for after, tries := range map[time.Duration]int{time.Second: 2, 2 * time.Second: 2, time.Minute: 1} {
			err := nimbus.Errorf(nimbus.CodeUnavailable, "busy")
			err.RetryAfter = after
			behind, n := failing(1, err)
			began := time.Now()
			_, got := retry.New(behind, retry.Policy{}).List(t.Context(), "", "", 0)
			if *n != tries || (got == nil) != (tries == 2) || tries == 2 && time.Since(began) != after {
				t.Errorf("after %v: %d tries in %v, %v", after, *n, time.Since(began), got)
			}
		}
	})
}
