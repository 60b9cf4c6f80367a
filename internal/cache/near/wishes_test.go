package near_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// origin is a control plane that has contents by their id, and counts how often
// each is sent.
type origin struct {
	*httptest.Server

	mu       sync.Mutex
	contents map[int64]string
	sent     map[int64]int
}

func newOrigin(t *testing.T, contents map[int64]string) *origin {
	t.Helper()
	o := &origin{contents: contents, sent: map[int64]int{}}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/_cache/entries/"), 10, 64)
		o.mu.Lock()
		content, ok := o.contents[id]
		if r.Method == http.MethodGet {
			o.sent[id]++
		}
		o.mu.Unlock()
		if err != nil || !ok || r.URL.Query().Get("sig") != "good" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		transfer.TellEntry(w.Header(), transfer.Entry{OrgID: nimbus.DefaultOrgID, ID: id, Size: int64(len(content))})
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, content) // to who may be gone
		}
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *origin) times(id int64) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent[id]
}

// keeping opens a door that keeps so many bytes.
func keeping(t *testing.T, server string, bytes int64) *near.Door {
	t.Helper()
	return keepingIn(t, server, t.TempDir(), bytes)
}

func keepingIn(t *testing.T, server, dir string, bytes int64) *near.Door {
	t.Helper()
	d, err := near.Open(near.Config{Server: server, Dir: dir, Bytes: bytes, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

func wish(id int64, bytes int) nimbus.CacheWish {
	return nimbus.CacheWish{OrgID: nimbus.DefaultOrgID, EntryID: id, Bytes: int64(bytes), Path: fmt.Sprintf("/_cache/entries/%d?sig=good", id)}
}

// becomes waits until a door has told of so many wishes, and forgets them.
func becomes(t *testing.T, d *near.Door, want map[int64]nimbus.CacheWarmState) {
	t.Helper()
	for end := time.Now().Add(time.Minute); len(d.Warmed(64)) < len(want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it tells %+v", d.Warmed(64))
		}
	}
	told := d.Warmed(64)
	for _, w := range told {
		if want[w.EntryID] != w.State || w.OrgID != nimbus.DefaultOrgID {
			t.Errorf("%d is %q, want %q", w.EntryID, w.State, want[w.EntryID])
		}
	}
	d.Forget(told)
	if left := d.Warmed(64); len(left) > 0 {
		t.Errorf("it tells %+v again", left)
	}
}

// TestWishes has a host fetch what it is asked for, once, and serve it.
func TestWishes(t *testing.T) {
	content := strings.Repeat("warm ", 1<<16)
	o := newOrigin(t, map[int64]string{1: content, 2: content + "2"})
	d := keeping(t, o.URL, 100<<20)
	stray := wish(3, 10)
	stray.Path = "/nimbus.v1.JobService/ListJobs?sig=good"
	other := wish(4, len(content))
	other.Path = wish(1, 0).Path
	elsewhere := wish(5, len(content))
	elsewhere.Path = "http://127.0.0.1:1" + elsewhere.Path
	wishes := []nimbus.CacheWish{wish(1, len(content)), wish(2, len(content)+1), stray, other, elsewhere, wish(6, 10)}
	d.Wish(wishes)
	d.Wish(wishes) // as each heartbeat does until it is told
	here, failed := nimbus.CacheHere, nimbus.CacheFailed
	becomes(t, d, map[int64]nimbus.CacheWarmState{1: here, 2: here, 3: failed, 4: failed, 5: failed, 6: failed})
	d.Wish(wishes[:1])
	becomes(t, d, map[int64]nimbus.CacheWarmState{1: here})
	if status, got := ask(t, http.MethodGet, "http://"+d.Addr()+wish(1, 0).Path, "", nil); status != http.StatusOK || got != content {
		t.Errorf("a job gets %d, %d bytes", status, len(got))
	}
	if o.times(1) != 1 || o.times(2) != 1 || d.Figures().Hits != 1 {
		t.Errorf("sent %d and %d times; %+v", o.times(1), o.times(2), d.Figures())
	}
}

// TestWishesTakeNothingAway has room made for nothing that is in use, or was used
// lately.
func TestWishesTakeNothingAway(t *testing.T) {
	const size = 1 << 20
	content := strings.Repeat("x", size)
	contents := map[int64]string{}
	for id := range int64(6) {
		contents[id+1] = content
	}
	o := newOrigin(t, contents)
	d := keeping(t, o.URL, 5<<20) // of which some is set aside for uploads
	d.Wish([]nimbus.CacheWish{wish(1, size), wish(2, size), wish(3, size), wish(4, size), wish(5, 3*size)})
	here := nimbus.CacheHere
	becomes(t, d, map[int64]nimbus.CacheWarmState{1: here, 2: here, 3: here, 4: nimbus.CacheNoRoom, 5: nimbus.CacheTooLarge})
	for id := range int64(3) {
		if status, got := ask(t, http.MethodGet, "http://"+d.Addr()+wish(id+1, 0).Path, "", nil); status != http.StatusOK || got != content || o.times(id+1) != 1 {
			t.Errorf("%d: %d, %d bytes, sent %d times", id+1, status, len(got), o.times(id+1))
		}
	}
	if f := d.Figures(); f.Evicted != 0 || o.times(4)+o.times(5) != 0 {
		t.Errorf("%+v", f)
	}
	if status, got := ask(t, http.MethodGet, "http://"+d.Addr()+wish(6, 0).Path, "", nil); status != http.StatusOK || got != content || d.Figures().Evicted == 0 {
		t.Errorf("a job has no room made: %d, %+v", status, d.Figures())
	}
}

// TestWishesWithoutCopies tells that a host keeps none.
func TestWishesWithoutCopies(t *testing.T) {
	o := newOrigin(t, map[int64]string{1: "x"})
	d := keeping(t, o.URL, 0)
	d.Wish([]nimbus.CacheWish{wish(1, 1)})
	becomes(t, d, map[int64]nimbus.CacheWarmState{1: nimbus.CacheOff})
	if o.times(1) != 0 {
		t.Error("it is fetched")
	}
}

// TestWishesAreBounded remembers no more than so many, until it has told of them.
func TestWishesAreBounded(t *testing.T) {
	o := newOrigin(t, nil)
	d := keeping(t, o.URL, 0)
	for id := range int64(1000) {
		d.Wish([]nimbus.CacheWish{wish(id+1, 1)})
	}
	for end := time.Now().Add(time.Minute); len(d.Warmed(1000)) < 128; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("they are not told of")
		}
	}
	if n := len(d.Warmed(1000)); n != 128 || len(d.Warmed(64)) != 64 {
		t.Errorf("%d are told of", n)
	}
}
