package cache_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// TestSaveFaults breaks each call that is made for saving a content again under
// its key, in four ways. Under the key there is the one before or the new one,
// whole, and the new one once that was acknowledged; what is left beside it a
// sweep removes.
func TestSaveFaults(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ways := []faults{{done: true}, {dead: true}, {}, {done: true, dead: true}}
		if w.postgres { // the same calls in the same order, and much slower
			ways = ways[:2]
		}
		for _, again := range []cache.Again{cache.AgainReplaces, cache.AgainKeeps} {
			for _, way := range ways {
				for n := 1; ; n++ {
					f := way
					f.at = n
					w.savesAgain(&f, again, fmt.Sprintf("%d %t %t %d", again, way.done, way.dead, n))
					if f.calls < n {
						if least := map[cache.Again]int{cache.AgainReplaces: 7, cache.AgainKeeps: 8}[again]; n < least {
							w.t.Errorf("only %d calls were tried", n)
						}
						break
					}
					if w.t.Failed() {
						w.t.Fatalf("broken at call %d: %+v", n, way)
					}
				}
			}
		}
	})
}

// savesAgain saves one key twice where all is well, or one that is to be kept, and
// then a new one, while something breaks.
func (w *world) savesAgain(f *faults, again cache.Again, key string) {
	w.t.Helper()
	ctx := w.t.Context()
	cfg := w.cfg
	cfg.Store, cfg.Blobs = faultyStore{w.db, f}, faultyBlobs{w.blobs, f}
	broken, before := cache.New(cfg), ""
	if again == cache.AgainReplaces { // a key that is kept is new: else nothing is saved
		before = "the one before"
		_, _, err := w.Save(ctx, job(), cache.Saving{Key: key, Version: version, Size: int64(len(before))}, strings.NewReader(before))
		w.must(err)
	}
	const content = "the new one, which is longer"
	saving := cache.Saving{Key: key, Version: version, Size: -1, Again: again, Meta: "note"}
	acknowledged := false
	for range 2 {
		if e, _, err := broken.Save(ctx, job(), saving, strings.NewReader(content)); err == nil {
			acknowledged = e.Size == int64(len(content))
			break
		}
	}
	_ = broken.Sweep(ctx) // it fails, or doesn't

	w.pass(25 * time.Hour)
	w.must(w.Sweep(ctx)) // by the process that is started after it
	w.balanced()
	e, ok, err := w.Get(ctx, job(), key, version)
	w.must(err)
	got := ""
	if ok {
		if got, err = w.read(e.ID, 0, -1); err != nil {
			w.t.Errorf("%s: it can't be read: %v", key, err)
		}
	}
	if got != content && (acknowledged || got != before) || got == content && e.Meta != "note" {
		w.t.Errorf("%s: there is %q with %q, acknowledged: %t", key, got, e.Meta, acknowledged)
	}
	for _, e := range w.entries(nimbus.DefaultOrgID) {
		w.must(w.Remove(ctx, e.OrgID, e.ID))
	}
	w.pass(10 * time.Minute)
	w.must(w.Sweep(ctx))
	if n := len(w.stored()); n != 0 {
		w.t.Errorf("%s: %d contents are left", key, n)
	}
}
