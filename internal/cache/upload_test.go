package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

func TestPlacesAreTakenOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		w.saved(job(), "first of the repository", "x") // whose books begin with it
		for round := range 10 {
			w.race(fmt.Sprint("race-", round))
		}
		w.balanced()
	})
}

// race has many reserve, then commit, one place.
func (w *world) race(key string) {
	w.t.Helper()
	ctx := w.t.Context()
	const racers = 8
	var wg sync.WaitGroup
	won, lost := make(chan cache.Upload, racers), make(chan error, racers)
	for range racers {
		wg.Go(func() {
			u, err := w.Reserve(ctx, job(), key, version, 4)
			if err != nil {
				lost <- err
				return
			}
			won <- u
		})
	}
	wg.Wait()
	if len(won) != 1 {
		w.t.Fatalf("%d have the place", len(won))
	}
	for range racers - 1 {
		w.wants("who comes late", <-lost, nimbus.CodeConflict)
	}
	u := <-won
	w.must(w.PutBlock(ctx, u.ID, "", strings.NewReader("once"), 4))
	ids := make(chan int64, racers)
	for range racers {
		wg.Go(func() {
			e, err := w.Commit(ctx, job(), key, version, 4)
			if err != nil {
				w.t.Errorf("commit: %v", err)
			}
			ids <- e.ID
		})
	}
	wg.Wait()
	for range racers {
		if id := <-ids; id != u.ID {
			w.t.Errorf("it is committed as %d, not %d", id, u.ID)
		}
	}
	_, err := w.Reserve(ctx, job(), key, version, 4)
	w.wants("once it is committed", err, nimbus.CodeConflict)
	_, err = w.CommitUpload(ctx, job(), u.ID, 5)
	w.wants("another size", err, nimbus.CodeConflict)
}

func TestAbandonedUploadFreesItsPlace(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		first, err := w.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		w.must(w.PutBlock(ctx, first.ID, "a", strings.NewReader("aaaa"), 4))
		w.pass(idle - time.Minute) // the clock goes on meanwhile, too
		w.must(w.PutBlock(ctx, first.ID, "b", strings.NewReader("b"), 1))
		w.pass(idle - time.Minute)
		_, err = w.Reserve(ctx, job(), "key", version, 0)
		w.wants("while it is saved", err, nimbus.CodeConflict)
		w.pass(time.Minute + time.Second)
		second, err := w.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		if second.ID == first.ID {
			w.t.Error("it is the same upload")
		}
		w.wants("a block that comes late", w.PutBlock(ctx, first.ID, "c", strings.NewReader("c"), 1), nimbus.CodeNotFound)
		w.wants("a list that comes late", w.Arrange(ctx, first.ID, []string{"a"}), nimbus.CodeNotFound)
		_, err = w.CommitUpload(ctx, job(), first.ID, 5)
		w.wants("a commit that comes late", err, nimbus.CodeNotFound)
		w.must(w.PutBlock(ctx, second.ID, "", strings.NewReader("new"), 3))
		e, err := w.Commit(ctx, job(), "key", version, 3)
		if err != nil || e.ID != second.ID {
			w.t.Errorf("%+v, %v", e, err)
		}
		w.sweep()
		w.balanced()
	})
}

// TestSlowUploadIsNotIdle: bytes keep a place, not blocks that end.
func TestSlowUploadIsNotIdle(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		u, err := w.Reserve(ctx, job(), "slow", version, 0)
		w.must(err)
		drop := readerFunc(func(p []byte) (int, error) {
			w.pass(idle / 2)
			w.sweep()
			p[0] = 'x'
			return 1, nil
		})
		w.must(w.PutBlock(ctx, u.ID, "", io.LimitReader(drop, 8), -1))
		_, err = w.Commit(ctx, job(), "slow", version, 8)
		w.must(err)
		w.balanced()
	})
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		u, err := w.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		put := func(id, content string) {
			w.t.Helper()
			w.must(w.PutBlock(ctx, u.ID, id, strings.NewReader(content), int64(len(content))))
		}
		put("b", "old and long")
		put("c", "!")
		put("a", "hello ")
		put("b", "world") // a retry: the last wins
		put("loose", "is not needed")
		_, err = w.Commit(ctx, job(), "key", version, 12)
		w.wants("without the list", err, nimbus.CodeInvalid)
		w.wants("a block that did not come", w.Arrange(ctx, u.ID, []string{"a", "b", "d"}), nimbus.CodeInvalid)
		w.wants("a block twice in the list", w.Arrange(ctx, u.ID, []string{"a", "a"}), nimbus.CodeInvalid)
		w.must(w.Arrange(ctx, u.ID, []string{"c", "b"}))
		w.must(w.Arrange(ctx, u.ID, []string{"a", "b", "c"}))
		w.must(w.Arrange(ctx, u.ID, []string{"a", "b", "c"}))
		put("b", "WORLD and more") // comes too late
		for _, wrong := range []int64{0, 11, 13, 25, 1 << 40} {
			_, err = w.Commit(ctx, job(), "key", version, wrong)
			if code := nimbus.ErrorCode(err); code != nimbus.CodeInvalid && code != nimbus.CodeTooLarge {
				w.t.Errorf("committed with %d bytes: %v", wrong, err)
			}
		}
		if _, ok, err := w.Find(ctx, job(), "key", nil, version); ok || err != nil {
			w.t.Errorf("it is found before it is committed: %v", err)
		}
		_, err = w.read(u.ID, 0, -1)
		w.wants("it is opened before it is committed", err, nimbus.CodeNotFound)
		e, err := w.Commit(ctx, job(), "key", version, 12)
		w.must(err)
		if got, err := w.read(e.ID, 0, -1); err != nil || got != "hello world!" {
			w.t.Errorf("it is %q, %v", got, err)
		}
		if n := len(w.stored()); n != 3 {
			w.t.Errorf("%d contents are left of it", n)
		}
		w.wants("a block of an entry", w.PutBlock(ctx, e.ID, "a", strings.NewReader("x"), 1), nimbus.CodeNotFound)
		w.wants("a list of an entry", w.Arrange(ctx, e.ID, []string{"a"}), nimbus.CodeNotFound)
		w.balanced()
	})
}

func TestRanges(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		begin := func(key string, ranges ...string) int64 {
			u, err := w.Reserve(ctx, job(), key, version, 0)
			w.must(err)
			for _, r := range ranges {
				var at int64
				var text string
				_, err := fmt.Sscanf(r, "%d:%s", &at, &text)
				w.must(err)
				w.must(w.PutRange(ctx, u.ID, at, strings.NewReader(text), int64(len(text))))
			}
			return u.ID
		}
		e, err := w.CommitUpload(ctx, job(), begin("good", "4:efgh", "0:xxxx", "8:ij", "0:abcd"), 10)
		w.must(err)
		if got, err := w.read(e.ID, 2, 7); err != nil || got != "cdefghi" {
			w.t.Errorf("it has %q, %v", got, err)
		}
		for key, ranges := range map[string][]string{"a gap": {"0:abcd", "5:fgh"}, "an overlap": {"0:abcd", "3:defgh"}, "no beginning": {"1:bcdefgh"}, "one in another": {"0:abcdefgh", "2:cd"}} {
			id, came := begin(key, ranges...), 0
			for _, r := range ranges {
				came += len(r) - len("0:")
			}
			for _, size := range []int{8, came} { // the whole, or the sum of what came
				_, err := w.CommitUpload(ctx, job(), id, int64(size))
				w.wants(key, err, nimbus.CodeInvalid)
			}
		}
		w.wants("before the beginning", w.PutRange(ctx, begin("minus"), -1, strings.NewReader("x"), 1), nimbus.CodeInvalid)
		empty, err := w.CommitUpload(ctx, job(), begin("empty"), 0)
		w.must(err)
		if got, err := w.read(empty.ID, 0, -1); err != nil || got != "" {
			w.t.Errorf("the empty one has %q, %v", got, err)
		}
		w.pass(idle + time.Second)
		w.sweep() // what could not be committed
		w.balanced()
	})
}

func TestSizes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		_, err := w.Reserve(ctx, job(), "key", version, -1)
		w.wants("a negative size", err, nimbus.CodeInvalid)
		_, err = w.Reserve(ctx, job(), "key", version, 1<<60)
		w.wants("a size as of a zip bomb", err, nimbus.CodeTooLarge)
		u, err := w.Reserve(ctx, job(), "key", version, 0)
		w.must(err)
		w.wants("less than announced", w.PutBlock(ctx, u.ID, "", strings.NewReader("123"), 4), nimbus.CodeInvalid)
		w.wants("more than announced", w.PutBlock(ctx, u.ID, "", strings.NewReader("12345"), 4), nimbus.CodeTooLarge)
		w.wants("a block as of a zip bomb", w.PutBlock(ctx, u.ID, "", strings.NewReader("1"), 1<<60), nimbus.CodeTooLarge)
		w.wants("a long id", w.PutBlock(ctx, u.ID, strings.Repeat("x", 300), strings.NewReader("1"), 1), nimbus.CodeInvalid)
		cut := errors.New("the line was cut")
		if err := w.PutBlock(ctx, u.ID, "", io.MultiReader(strings.NewReader("12"), iotest.ErrReader(cut)), 4); !errors.Is(err, cut) {
			w.t.Errorf("a body that ends early: %v", err)
		}
		if n := len(w.stored()); n != 0 {
			w.t.Errorf("%d contents are left of what failed", n)
		}
		if st, err := w.Stats(ctx, nimbus.DefaultOrgID); err != nil || st.Bytes != 0 {
			w.t.Errorf("%d bytes are counted for what failed, %v", st.Bytes, err)
		}
		w.wants("an upload that never was", w.PutBlock(ctx, u.ID+1, "", bytes.NewReader(nil), 0), nimbus.CodeNotFound)
		w.must(w.PutBlock(ctx, u.ID, "", strings.NewReader("1234"), -1))
		if st, err := w.Stats(ctx, nimbus.DefaultOrgID); err != nil || st.Bytes != 4 {
			w.t.Errorf("%d bytes are counted for four, %v", st.Bytes, err)
		}
	})
}

// TestBytesAreCountedAsTheyCome: nothing is read that is not counted, whatever is
// said of its size.
func TestBytesAreCountedAsTheyCome(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		for name, c := range map[string]struct{ quota, size, says int64 }{
			"not said":       {200 << 10, 1 << 30, -1},
			"many steps":     {20 << 20, 40 << 20, 40 << 20},
			"it just fits":   {200 << 10, 200 << 10, -1},
			"all but a byte": {200<<10 - 1, 200 << 10, -1},
		} {
			small := w.limited(cache.Limits{Repo: c.quota})
			u, err := small.Reserve(ctx, job(), name, version, 0)
			w.must(err)
			left := c.size
			body := readerFunc(func(p []byte) (int, error) {
				if left == 0 {
					return 0, io.EOF
				}
				n := min(int64(len(p)), left)
				left -= n
				return int(n), nil
			})
			err = small.PutBlock(ctx, u.ID, "", body, c.says)
			if fits := c.size <= c.quota; fits != (err == nil) || !fits && nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
				w.t.Errorf("%s: %v", name, err)
			}
			if read := c.size - left; read > c.quota+1 { // a byte tells whether there is more
				w.t.Errorf("%s: %d bytes are read where %d may be used", name, read, c.quota)
			}
			w.pass(idle + time.Second)
			w.sweep()
		}
		w.balanced()
	})
}
