package cache_test

import (
	"context"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// TestWhoMayNoMoreSavesNothing: a content whose job has ended while it came is given
// up, and the one before stays; so it is with one of whose place another has come.
func TestWhoMayNoMoreSavesNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		save := func(content string, what cache.Saving) (cache.Entry, error) {
			what.Key, what.Version, what.Size = "k", version, int64(len(content))
			e, _, err := w.Save(ctx, job(), what, strings.NewReader(content))
			return e, err
		}
		before, err := save("before", cache.Saving{})
		w.must(err)
		ended := nimbus.Errorf(nimbus.CodeUnauthenticated, "the job has ended")
		if _, err := save("after", cache.Saving{Still: func(context.Context) error { return ended }}); nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
			w.t.Errorf("of a job that has ended: %v", err)
		}
		is := func(id int64) func(int64) bool { return func(there int64) bool { return there == id } }
		// It is replaced while the second comes.
		var now cache.Entry
		meanwhile := func(context.Context) (err error) {
			now, err = save("meanwhile", cache.Saving{Match: is(before.ID)})
			return err
		}
		if _, err := save("late", cache.Saving{Match: is(before.ID), Still: meanwhile}); nimbus.ErrorCode(err) != nimbus.CodeFenced {
			w.t.Errorf("of an entry that was replaced meanwhile: %v", err)
		}
		if _, err := save("too late", cache.Saving{Match: is(before.ID)}); nimbus.ErrorCode(err) != nimbus.CodeFenced {
			w.t.Errorf("of an entry that was replaced: %v", err)
		}
		if e, ok, err := w.Get(ctx, job(), "k", version); err != nil || !ok || e.ID != now.ID {
			w.t.Errorf("there is %d, %t, %v, want %d", e.ID, ok, err, now.ID)
		}
		w.sweep()
		w.balanced()
	})
}

// TestWhatIsTooLargeIsCounted, by the size that is said, too.
func TestWhatIsTooLargeIsCounted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		if _, err := w.Reserve(ctx, job(), "k", version, 1<<50); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
			w.t.Fatal(err)
		}
		w.must(cache.Flush(ctx, w.Service))
		st, err := w.Stats(ctx, nimbus.DefaultOrgID)
		if w.must(err); st.Refused != 1 {
			w.t.Errorf("%d were refused, want 1", st.Refused)
		}
	})
}
