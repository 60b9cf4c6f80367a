package cache_test

import (
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache"
)

func TestSaveAndFind(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		e := w.saved(job(), "linux-go-1", "hello ", "", "wide ", "world")
		found, ok, err := w.Find(w.t.Context(), job(), "linux-go-1", nil, version)
		if err != nil || !ok || found.ID != e.ID || found.Size != 16 || found.Key != "linux-go-1" || found.Scope != mainRef {
			w.t.Fatalf("%+v, %v, %v", found, ok, err)
		}
		for offset := range int64(17) {
			for n := range 17 - offset {
				if got, err := w.read(e.ID, offset, n); err != nil || got != "hello wide world"[offset:offset+n] {
					w.t.Fatalf("%d bytes from %d on are %q, %v", n, offset, got, err)
				}
			}
		}
		var sent strings.Builder
		r, err := w.Open(w.t.Context(), e.ID, 3, -1)
		w.must(err)
		defer r.Close()
		if n, err := r.WriteTo(&sent); err != nil || n != 13 || sent.String() != "lo wide world" {
			w.t.Errorf("sent %q, %v", sent.String(), err)
		}
		if got, err := w.Entry(w.t.Context(), e.ID); err != nil || got.Place != (cache.Place{OrgID: e.OrgID, Repo: "acme/app", Scope: mainRef, Version: version, Key: "linux-go-1"}) {
			w.t.Errorf("it is %+v, %v", got, err)
		}
	})
}
