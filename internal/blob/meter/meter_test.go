package meter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/blobtest"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/blob/mem"
	"github.com/nimbus-ci/nimbus/internal/blob/meter"
)

// heard is an observer that remembers.
type heard struct {
	mu            sync.Mutex
	calls         []string
	written, read int64
}

func (h *heard) BlobCalled(op string, code nimbus.Code, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf("%s %s %v", op, code, took))
}

func (h *heard) BlobMoved(written bool, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if written {
		h.written += n
	} else {
		h.read += n
	}
}

func TestTellsCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &heard{}
		s := meter.New(blob.Around(mem.New(1<<20), blob.Layer{Do: func(ctx context.Context, _ blob.Call, run func(context.Context) error) error {
			time.Sleep(time.Second)
			return run(ctx)
		}}), h)
		ctx := t.Context()
		_, put := s.Put(ctx, "a", strings.NewReader("hello"), 5)
		_, addressed := s.PutAddressed(ctx, "cas", strings.NewReader("you"), 5)
		r, _, open := s.Open(ctx, "a")
		part, ranged := s.OpenRange(ctx, "a", 1, 2)
		_, stat := s.Stat(ctx, "a")
		_, list := s.List(ctx, "", "", 0)
		if err := errors.Join(put, addressed, open, ranged, stat, list, s.Delete(ctx, "a")); err != nil {
			t.Fatal(err)
		}
		for _, r := range []io.ReadCloser{r, part} {
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Fatal(err)
			}
			r.Close()
		}
		var want []string
		for _, op := range blob.Ops() {
			want = append(want, string(op)+"  1s")
		}
		if diff := cmp.Diff(want, h.calls); diff != "" {
			t.Error(diff)
		}
		if h.written != 8 || h.read != 7 {
			t.Errorf("%d bytes written, %d read", h.written, h.read)
		}
	})
}

func TestTellsFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &heard{}
		s := meter.New(mem.New(1<<20), h)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = s.Stat(t.Context(), "a")
		_, _, _ = s.Open(t.Context(), "../a")
		_, _ = s.Put(t.Context(), "a", strings.NewReader("hello"), 4)
		_, _ = s.Put(t.Context(), "a", iotest.ErrReader(errors.New("cut")), 4)
		_, _ = s.Put(cancelled, "a", strings.NewReader("hello"), 5)
		if want := []string{"stat not_found 0s", "open invalid 0s", "put too_large 0s", "put internal 0s", "put cancelled 0s"}; !slices.Equal(h.calls, want) {
			t.Errorf("%q", h.calls)
		}
	})
}

// TestAFileStaysAFile: what is counted is still sent by the kernel.
func TestAFileStaysAFile(t *testing.T) {
	t.Parallel()
	behind, err := fs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	h := &heard{}
	s := meter.New(behind, h)
	if _, err := s.Put(t.Context(), "a", strings.NewReader("hello"), 5); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenRange(t.Context(), "a", 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := &blobtest.Response{}
	if n, err := io.Copy(w, r); err != nil || n != 3 || w.String() != "ell" || h.read != 3 {
		t.Errorf("%d bytes, %q, %v; %d counted", n, w, err, h.read)
	}
	if !w.File {
		t.Error("it is no part of a file any more")
	}
}
