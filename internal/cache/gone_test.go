package cache_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/identity"
)

// TestMissingContent: content that is gone is an error, never a shorter or another
// content, and the key can be saved anew.
func TestMissingContent(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		lose := func(e cache.Entry, offset int64) (key string) {
			segments, err := w.db.CacheSegments(ctx, e.ID, offset, 1)
			w.must(err)
			key = fmt.Sprintf("cache/%s/%d/%s", e.OrgID, e.ID, segments[0].Blob)
			w.must(w.blobs.Delete(ctx, key))
			return key
		}
		short := w.saved(job(), "short", "hello ", "world")
		_, err := w.blobs.Put(ctx, lose(short, 6), strings.NewReader("wo"), 10)
		w.must(err)
		if got, err := w.read(short.ID, 0, 6); err != nil || got != "hello " {
			w.t.Errorf("the other one reads as %q, %v", got, err)
		}
		r, err := w.Open(ctx, short, 0, -1)
		w.must(err)
		defer r.Close()
		if n, err := io.Copy(io.Discard, r); n != 6 || nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			w.t.Errorf("a segment that is shorter is sent as %d bytes, %v", n, err)
		}
		long := w.saved(job(), "long", "hello")
		_, err = w.blobs.Put(ctx, lose(long, 0), strings.NewReader("hello, too"), 10)
		w.must(err)
		_, err = w.Open(ctx, long, 0, -1)
		w.wants("a segment that is longer", err, nimbus.CodeNotFound)

		later, first := w.saved(job(), "later", "hello ", "world"), w.saved(job(), "first", "hello ")
		lose(later, 6)
		if got, err := w.read(later.ID, 0, -1); err == nil {
			w.t.Errorf("without its second segment it reads as %q", got)
		}
		lose(first, 0)
		_, err = w.Open(ctx, first, 0, -1)
		w.wants("the first segment is gone", err, nimbus.CodeNotFound)
		for _, key := range []string{"short", "long", "later", "first"} {
			if e, ok, err := w.Find(ctx, job(), key, nil, version); ok || err != nil {
				w.t.Errorf("%+v is found, %v", e, err)
			}
			w.saved(job(), key, "anew")
		}
	})
}

// TestOrgIsDeleted: with an org its cache goes.
func TestOrgIsDeleted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, gone := w.t.Context(), w.org("gone")
		mine := w.saved(job(), "key", "mine")
		of := job(func(c *cache.Caller) { c.OrgID = gone })
		e := w.saved(of, "key", "theirs")
		u, err := w.Reserve(ctx, of, "upload", version, 0)
		w.must(err)
		w.must(w.PutBlock(ctx, u.ID, "", strings.NewReader("x"), 1))
		w.must(identity.New(w.db, nimbus.SystemClock{}).DeleteOrg(ctx, identity.Root(), gone))
		_, err = w.Entry(ctx, e.ID)
		w.wants("its entry", err, nimbus.CodeNotFound)
		w.wants("its upload", w.PutBlock(ctx, u.ID, "", strings.NewReader("x"), 1), nimbus.CodeNotFound)
		w.sweep()
		w.balanced()
		if all := w.entries(mine.OrgID); len(all) != 1 {
			w.t.Errorf("another org has %+v", all)
		}
		_, err = w.limited(cache.Limits{Total: 5}).Reserve(ctx, job(), "five", version, 5)
		w.must(err)
	})
}

// overtaken has an entry removed right after it was read.
type overtaken struct{ cache.Store }

func (s overtaken) CacheEntry(ctx context.Context, id int64) (cache.Entry, error) {
	e, err := s.Store.CacheEntry(ctx, id)
	if err != nil {
		return e, err
	}
	return e, s.RemoveCache(ctx, e.OrgID, id)
}

// TestRemovedWhileItIsOpened: what nobody has pinned may lose its content at any
// moment, and so is not opened.
func TestRemovedWhileItIsOpened(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		e, cfg := w.saved(job(), "key", "content"), w.cfg
		cfg.Store = overtaken{w.db}
		s := cache.New(cfg)
		e, err := s.Entry(w.t.Context(), e.ID)
		w.must(err)
		_, err = s.Open(w.t.Context(), e, 0, -1)
		w.wants("it is opened", err, nimbus.CodeNotFound)
		w.sweep()
		w.balanced()
	})
}
