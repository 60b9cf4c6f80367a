package cache_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

func TestSaveAndFind(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		e := w.saved(job(), "linux-go-1", "hello ", "", "wide ", "world", "")
		found, ok, err := w.Find(w.t.Context(), job(), "linux-go-1", nil, version)
		if err != nil || !ok || found.ID != e.ID || found.Size != 16 || found.Key != "linux-go-1" || found.Scope != mainRef || found.CreatedAt.IsZero() {
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
		r, err := w.Open(w.t.Context(), e, 3, -1)
		w.must(err)
		defer r.Close()
		if n, err := r.WriteTo(&sent); err != nil || n != 13 || sent.String() != "lo wide world" {
			w.t.Errorf("sent %q, %v", sent.String(), err)
		}
		if got, err := w.Entry(w.t.Context(), e.ID); err != nil || got.Place != (cache.Place{OrgID: e.OrgID, Repo: "acme/app", Scope: mainRef, Version: version, Key: "linux-go-1"}) {
			w.t.Errorf("it is %+v, %v", got, err)
		}
		for _, out := range [][2]int64{{-1, 1}, {17, 0}, {17, -1}, {0, 17}, {16, 1}, {1, 1 << 62}} {
			_, err := w.read(e.ID, out[0], out[1])
			w.wants(fmt.Sprint("opened ", out), err, nimbus.CodeInvalid)
		}
		_, err = w.Entry(w.t.Context(), e.ID+1)
		w.wants("another id", err, nimbus.CodeNotFound)
		_, err = w.read(e.ID+1, 0, -1)
		w.wants("another id", err, nimbus.CodeNotFound)
	})
}

// TestManySegments reads an entry of more segments than are known at once.
func TestManySegments(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		blocks := make([]string, 600)
		for i := range blocks {
			blocks[i] = fmt.Sprintf("%04d", i)
		}
		large := sized(20 << 20) // as many small ones alone are refused
		e, whole := w.saved(job(), "many", append([]string{large}, blocks...)...), large+strings.Join(blocks, "")
		for _, from := range []int64{0, 1023, 1024, 1025, 2398, 2399, 2400} {
			from += int64(len(large))
			if got, err := w.read(e.ID, from, -1); err != nil || got != whole[from:] {
				w.t.Errorf("from %d on: %d bytes, %v", from, len(got), err)
			}
		}
	})
}

// TestOrderOfLooking: own scope first; in each the key exactly, then the newest
// that begins with it, then each other key likewise.
func TestOrderOfLooking(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		onTopic := job(func(c *cache.Caller) { c.Write, c.Read = topic, []string{topic, mainRef} })
		ids := map[string]int64{}
		for i := 1; i <= 11; i++ {
			key := fmt.Sprintf("index-scope-1-0123abcd#%d", i)
			ids[key] = w.saved(job(), key, key).ID
		}
		for _, key := range []string{"go-linux-b", "go-linux-a", "go-linux-", "x%_y", "xzzy", "ünï", "ünïcode"} {
			ids[key] = w.saved(job(), key, key).ID
		}
		ids["topic:go-linux-c"] = w.saved(onTopic, "go-linux-c", "topic").ID
		ids["topic:go-linux-a"] = w.saved(onTopic, "go-linux-a", "topic").ID
		for _, c := range []struct {
			caller  cache.Caller
			key     string
			restore []string
			want    string
		}{
			{job(), "index-scope-1-0123abcd#", nil, "index-scope-1-0123abcd#11"},
			{job(), "index-scope-1-0123abcd#1", nil, "index-scope-1-0123abcd#1"},
			{job(), "go-linux-", nil, "go-linux-"}, // exactly, though others are newer
			{job(), "go-linux", nil, "go-linux-"},  // the newest of main's
			{onTopic, "go-linux-b", nil, "go-linux-b"},
			{onTopic, "go-linux-", nil, "topic:go-linux-a"}, // own scope first, though main has it exactly
			{onTopic, "go-linux-b", []string{"go-linux-"}, "topic:go-linux-a"},
			{onTopic, "none", []string{"nothing", "go-linux-c", "go-linux-a"}, "topic:go-linux-c"},
			{job(), "none", []string{"go-linux-x", "index-"}, "index-scope-1-0123abcd#11"},
			{job(), "x%", nil, "x%_y"},
			{job(), "x_", nil, ""},
			{job(), "ün", nil, "ünïcode"},
			{job(), "ünï", nil, "ünï"},
			{job(), "GO-LINUX-", nil, ""},
			{job(), "go-linux-aa", nil, ""},
			{job(func(c *cache.Caller) { c.Read = nil }), "go-linux-a", nil, ""},
		} {
			e, ok, err := w.Find(w.t.Context(), c.caller, c.key, c.restore, version)
			if err != nil || ok != (c.want != "") || e.ID != ids[c.want] {
				w.t.Errorf("%q, %q finds %q of %s, %v; want %q", c.key, c.restore, e.Key, e.Scope, err, c.want)
			}
		}
		if e, ok, err := w.Find(w.t.Context(), job(), "go-linux-", nil, version+"x"); ok || err != nil {
			w.t.Errorf("another version finds %+v, %v", e, err)
		}
	})
}

// TestNewestIsByTime: an entry that is committed later is newer, whenever it was
// begun.
func TestNewestIsByTime(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx := w.t.Context()
		early, err := w.Reserve(ctx, job(), "key-early", version, 1)
		w.must(err)
		w.saved(job(), "key-late", "x")
		w.must(w.PutBlock(ctx, early.ID, "", strings.NewReader("e"), 1))
		if e, _, err := w.Find(ctx, job(), "key-", nil, version); err != nil || e.Key != "key-late" {
			w.t.Errorf("what is still being saved hides %q: %v", e.Key, err)
		}
		w.pass(time.Millisecond)
		_, err = w.CommitUpload(ctx, job(), early.ID, 1)
		w.must(err)
		if e, _, err := w.Find(ctx, job(), "key-", nil, version); err != nil || e.Key != "key-early" {
			w.t.Errorf("the newest is %q, %v", e.Key, err)
		}
	})
}

// socket takes what it is sent as a TCP connection does.
type socket struct {
	strings.Builder

	files, others int
}

func (s *socket) ReadFrom(r io.Reader) (int64, error) {
	if part, ok := r.(*io.LimitedReader); ok {
		r = part.R
		defer func() { part.N = 0 }()
	}
	if _, ok := r.(*os.File); ok {
		s.files++
	} else {
		s.others++
	}
	return io.Copy(&s.Builder, r)
}

// TestSegmentsAreSentAsFiles: what a connection gets is what the kernel can send.
func TestSegmentsAreSentAsFiles(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		e := w.saved(job(), "key", "hello ", "wide ", "world")
		r, err := w.Open(w.t.Context(), e, 0, -1)
		w.must(err)
		defer r.Close()
		var s socket
		if n, err := io.Copy(&s, r); err != nil || n != 16 || s.String() != "hello wide world" || s.files != 3 || s.others != 0 {
			w.t.Errorf("%q is sent as %d files and %d others, %v", s.String(), s.files, s.others, err)
		}
	})
}
