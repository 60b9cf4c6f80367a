package cache_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// TestNobodyNamesWhatWasChecked: a place in which contents have the hash that they
// are named by takes nothing by a protocol whose clients name versions.
func TestNobodyNamesWhatWasChecked(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, c := w.t.Context(), job()
		sum := sha256.Sum256([]byte("right"))
		hash, cas := hex.EncodeToString(sum[:]), cache.Own+"bazel-cas"
		_, err := w.Reserve(ctx, c, hash, cas, 0)
		w.wants("a place for an entry", err, nimbus.CodeInvalid)
		_, err = w.Commit(ctx, c, hash, cas, 0)
		w.wants("an entry", err, nimbus.CodeInvalid)
		what := cache.Saving{Key: hash, Version: cas, Size: 5, Again: cache.AgainKeeps, SHA256: hash}
		_, _, err = w.Save(ctx, c, what, strings.NewReader("wrong"))
		w.wants("another content", err, nimbus.CodeInvalid)
		e, kept, err := w.Save(ctx, c, what, strings.NewReader("right"))
		if err != nil || kept {
			w.t.Fatalf("kept %v, %v", kept, err)
		}
		if got, err := w.read(e.ID, 0, -1); err != nil || got != "right" {
			w.t.Errorf("%q, %v", got, err)
		}
		_, _, err = w.Find(ctx, c, hash, nil, cas)
		w.wants("a look-up", err, nimbus.CodeInvalid)
	})
}
