package near_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// mib is the size of the contents of these tests.
const mib = 1 << 20

// saving is an origin that takes contents at /cache/ORG/N, N being the id, unless
// it refuses them: it says so once it has read some of them.
type saving struct {
	*origin

	refuseAfter atomic.Int64 // bytes; 0 for never
}

func newSaving(t *testing.T, contents map[int64]string) *saving {
	t.Helper()
	s := &saving{origin: newOrigin(t, contents)}
	reads := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			reads.ServeHTTP(w, r)
			return
		}
		body := io.Reader(r.Body)
		if most := s.refuseAfter.Load(); most > 0 {
			_, _ = io.CopyN(io.Discard, body, most) // to who may be gone
			http.Error(w, "insufficient usage", http.StatusInsufficientStorage)
			return
		}
		content, err := io.ReadAll(body)
		id, failed := strconv.ParseInt(filepath.Base(r.URL.Path), 10, 64)
		if err != nil || failed != nil {
			t.Error(err, failed)
		}
		sum, digest := sha256.Sum256(content), transfer.NewDigest()
		digest.Add(int64(len(content)), hex.EncodeToString(sum[:]))
		s.mu.Lock()
		s.contents[id] = string(content)
		s.mu.Unlock()
		transfer.TellEntry(w.Header(), transfer.Entry{OrgID: nimbus.DefaultOrgID, ID: id, Size: int64(len(content)), Digest: digest.String()})
		w.WriteHeader(http.StatusCreated)
	})
	return s
}

// put saves a content, whose size is told or not.
func put(t *testing.T, d *near.Door, id int64, content string, told bool) int {
	t.Helper()
	body := io.Reader(strings.NewReader(content))
	if !told {
		body = io.MultiReader(body)
	}
	status, _ := ask(t, http.MethodPut, "http://"+d.Addr()+"/cache/"+nimbus.DefaultOrgID+"/"+strconv.FormatInt(id, 10), "", body)
	return status
}

func contentOf(id int64) string { return strings.Repeat(strconv.FormatInt(id%10, 10), mib) }

// restore reads contents, and fails unless they come from the host where they should.
func restore(t *testing.T, o *origin, d *near.Door, here bool, ids ...int64) {
	t.Helper()
	for _, id := range ids {
		before := o.times(id)
		status, got := ask(t, http.MethodGet, "http://"+d.Addr()+wish(id, 0).Path, "", nil)
		if status != http.StatusOK || got != contentOf(id) || (o.times(id) == before) != here {
			t.Errorf("%d: %d, %d bytes, from the host: %t", id, status, len(got), o.times(id) == before)
		}
	}
}

// TestWhatIsRefusedTakesNothingAway: an upload that the origin refuses, whatever
// its size and whether that was told, costs no other content its place; one that it
// takes has the one go that was not used for longest.
func TestWhatIsRefusedTakesNothingAway(t *testing.T) {
	t.Parallel()
	contents := map[int64]string{}
	for id := range int64(6) {
		contents[id+1] = contentOf(id + 1)
	}
	o := newSaving(t, contents)
	d := keeping(t, o.URL, 8<<20) // of which a quarter is set aside
	refused := func(before near.Figures) {
		t.Helper()
		for _, told := range []bool{true, false} {
			for _, after := range []int64{1, 3 * mib} {
				o.refuseAfter.Store(after)
				if status := put(t, d, 7, strings.Repeat("x", 3*mib+mib/2), told); status != http.StatusInsufficientStorage {
					t.Errorf("it is answered with %d", status)
				}
			}
		}
		o.refuseAfter.Store(0)
		if f := d.Figures(); f.Evicted != 0 || f.Bytes != before.Bytes || f.Saved != 0 {
			t.Errorf("%+v, and before %+v", f, before)
		}
	}
	refused(d.Figures())
	restore(t, o.origin, d, false, 1, 2, 3, 4, 5)
	// Who reads along has the last byte before it is kept.
	until(t, "all of them are kept", func() bool { return d.Figures().Entries == 5 })
	full := d.Figures()
	if full.Entries != 5 || full.Evicted != 0 {
		t.Fatalf("%+v", full)
	}
	refused(full)
	restore(t, o.origin, d, true, 1, 3, 4, 5)
	for id, told := range map[int64]bool{7: true, 8: false} {
		if status := put(t, d, id, contentOf(id), told); status != http.StatusCreated {
			t.Errorf("it is answered with %d", status)
		}
	}
	restore(t, o.origin, d, true, 7, 8, 4, 5)
	if f := d.Figures(); f.Saved != 2 || f.Evicted != 2 || f.EvictedBytes != 2*mib || f.Bytes > full.Bytes {
		t.Errorf("%+v", f)
	}
	restore(t, o.origin, d, false, 2)
}

// TestTheDiskIsFull: copies give way by as much as the disk is too full, the ones
// first that were not used for longest, and none that is being read; nothing new is
// kept until there is room again, and all is served all the same.
func TestTheDiskIsFull(t *testing.T) {
	t.Parallel()
	contents := map[int64]string{}
	for id := range int64(7) {
		contents[id+1] = contentOf(id + 1)
	}
	contents[9] = strings.Repeat("9", 64*mib)
	o := newSaving(t, contents)
	var over atomic.Int64
	d, err := near.Open(near.Config{Server: o.URL, Dir: t.TempDir(), Bytes: 200 << 20, Over: over.Load, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	restore(t, o.origin, d, false, 1, 2, 3, 4)
	until(t, "all of them are kept", func() bool { return d.Figures().Entries == 4 })
	const large = 64 * mib
	d.Wish([]nimbus.CacheWish{wish(9, large)})
	becomes(t, d, map[int64]nimbus.CacheWarmState{9: nimbus.CacheHere})
	restore(t, o.origin, d, true, 1)
	reading := begin(t, d, 9)
	restore(t, o.origin, d, true, 3) // so that 2 and 4 were not used for longest
	over.Store(mib + mib/2)
	d.GiveWay()
	if f := d.Figures(); f.Entries != 3 || f.Evicted != 2 {
		t.Errorf("%+v", f)
	}
	restore(t, o.origin, d, true, 1, 3)
	over.Store(1 << 40)
	d.GiveWay()
	if f := d.Figures(); f.Entries != 1 || f.Evicted != 4 {
		t.Errorf("what is being read stays alone: %+v", f)
	}
	restore(t, o.origin, d, false, 5, 5)
	if status := put(t, d, 7, contentOf(7), false); status != http.StatusCreated {
		t.Errorf("a content is saved with %d", status)
	}
	if f := d.Figures(); f.Entries != 1 || f.Refused != 3 || f.Saved != 0 {
		t.Errorf("%+v", f)
	}
	if got := reading(); got != large {
		t.Errorf("who was reading got %d bytes", got)
	}
	over.Store(0)
	d.GiveWay()
	restore(t, o.origin, d, false, 6)
	restore(t, o.origin, d, true, 6)
}

// begin begins to read a content that is larger than what may be on its way through
// a connection, and reads the rest when that is called.
func begin(t *testing.T, d *near.Door, id int64) (rest func() int) {
	t.Helper()
	answer, err := http.Get("http://" + d.Addr() + wish(id, 0).Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	if n, err := io.CopyN(io.Discard, answer.Body, 1); err != nil || n != 1 {
		t.Fatal(err)
	}
	return func() int {
		rest, err := io.Copy(io.Discard, answer.Body)
		if err != nil {
			t.Error(err)
		}
		return int(rest) + 1
	}
}
