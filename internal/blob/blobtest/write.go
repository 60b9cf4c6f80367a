package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Sizes that are in one piece, and in several, for a place that sends parts.
const (
	small  = 1 << 10
	medium = 20 << 20
	large  = 70 << 20
)

func testPut(t *testing.T, p Place) {
	put(t, p.Store, "org/workspaces/a", []byte("hello"))
	holds(t, p.Store, "org/workspaces/a", []byte("hello"))
	if size, err := p.Store.Stat(t.Context(), "org/workspaces/a"); err != nil || size != 5 {
		t.Error(size, err)
	}
	for range 2 {
		if err := p.Store.Delete(t.Context(), "org/workspaces/a"); err != nil {
			t.Error(err)
		}
	}
	lacks(t, p.Store, "org/workspaces/a")
}

func testReplaced(t *testing.T, p Place) {
	for _, raw := range [][]byte{Random(1, small), Random(2, 3*small), Random(3, 1), {}, Random(4, small)} {
		put(t, p.Store, "a/b", raw)
		holds(t, p.Store, "a/b", raw)
	}
}

func testEmpty(t *testing.T, p Place) {
	put(t, p.Store, "empty", nil)
	holds(t, p.Store, "empty", nil)
	sum, err := p.Store.PutAddressed(t.Context(), "cas", strings.NewReader(""), 0)
	if err != nil || sum != SHA256(nil) {
		t.Fatal(sum, err)
	}
	holds(t, p.Store, "cas/"+sum, nil)
}

func testAddressed(t *testing.T, p Place) {
	for _, size := range []int{5, medium} {
		raw := Random(uint64(size), size)
		for range 2 {
			sum, err := p.Store.PutAddressed(t.Context(), "org/cas", bytes.NewReader(raw), int64(size))
			if err != nil || sum != SHA256(raw) {
				t.Fatal(sum, err)
			}
			holds(t, p.Store, "org/cas/"+sum, raw)
		}
	}
	if found := list(t, p.Store, "", "", 0); len(found) != 2 {
		t.Errorf("%d blobs of 2 contents: %v", len(found), found)
	}
}

func testTooLarge(t *testing.T, p Place) {
	put(t, p.Store, "there", []byte("before"))
	for _, size := range []int{1, small, medium} {
		raw := Random(1, size)
		for _, key := range []string{"there", "new"} {
			if _, err := p.Store.Put(t.Context(), key, bytes.NewReader(raw), int64(size)-1); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
				t.Errorf("put %d bytes: %v", size, err)
			}
		}
		if _, err := p.Store.PutAddressed(t.Context(), "cas", bytes.NewReader(raw), int64(size)-1); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
			t.Errorf("put %d addressed bytes: %v", size, err)
		}
		lacks(t, p.Store, "cas/"+SHA256(raw))
	}
	unchanged(t, p)
}

// unchanged fails the test unless the blob "there" is all that there is.
func unchanged(t *testing.T, p Place) {
	t.Helper()
	holds(t, p.Store, "there", []byte("before"))
	lacks(t, p.Store, "new")
	if found := list(t, p.Store, "", "", 0); len(found) != 1 {
		t.Errorf("there is more than before: %v", found)
	}
}

func testSourceFails(t *testing.T, p Place) {
	put(t, p.Store, "there", []byte("before"))
	broken := errors.New("the client went away")
	for _, size := range []int{0, small, medium} {
		source := func() io.Reader { return io.MultiReader(bytes.NewReader(Random(1, size)), iotest.ErrReader(broken)) }
		for _, key := range []string{"there", "new"} {
			if _, err := p.Store.Put(t.Context(), key, source(), large); !errors.Is(err, broken) {
				t.Errorf("put %d bytes: %v", size, err)
			}
		}
		if _, err := p.Store.PutAddressed(t.Context(), "cas", source(), large); !errors.Is(err, broken) {
			t.Errorf("put %d addressed bytes: %v", size, err)
		}
	}
	unchanged(t, p)
}

func testCancelled(t *testing.T, p Place) {
	put(t, p.Store, "there", []byte("before"))
	for _, after := range []int{1, small, medium - small} {
		source := func() (context.Context, io.Reader) {
			ctx, cancel := context.WithCancel(t.Context())
			return ctx, &cancelAfter{r: bytes.NewReader(Random(1, medium)), left: after, cancel: cancel}
		}
		for _, key := range []string{"there", "new"} {
			ctx, r := source()
			if _, err := p.Store.Put(ctx, key, r, large); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled after %d bytes: %v", after, err)
			}
		}
		ctx, r := source()
		if _, err := p.Store.PutAddressed(ctx, "cas", r, large); !errors.Is(err, context.Canceled) {
			t.Errorf("addressed, cancelled after %d bytes: %v", after, err)
		}
	}
	unchanged(t, p)
}

func testKeys(t *testing.T, p Place) {
	for _, key := range []string{
		"", ".", "..", "/", "../x", "/etc/passwd", "a/../b", "a/..", "a/./b", "a//b", "a/", "/a", ".incoming/x", "a/.hidden", ".hidden/a",
		"a b", "a\x00b", "a\nb", "a\\b", "a%2e%2e", "a?b", "a#b", "a+b", "ä", "a\xff", "a:b", "~", "$HOME", "*",
		strings.Repeat("a", blob.MaxName+1), strings.Repeat("a/", blob.MaxKey/2) + "a",
	} {
		_, err := p.Store.Put(t.Context(), key, strings.NewReader("x"), 5)
		invalid(t, "put", key, err)
		_, err = p.Store.PutAddressed(t.Context(), key, strings.NewReader("x"), 5)
		invalid(t, "put addressed", key, err)
		_, _, err = p.Store.Open(t.Context(), key)
		invalid(t, "open", key, err)
		_, err = p.Store.OpenRange(t.Context(), key, 0, 1)
		invalid(t, "open a range of", key, err)
		_, err = p.Store.Stat(t.Context(), key)
		invalid(t, "stat", key, err)
		invalid(t, "delete", key, p.Store.Delete(t.Context(), key))
	}
	if _, err := p.Store.PutAddressed(t.Context(), strings.Repeat("a/", blob.MaxKey/2-1)+"a", strings.NewReader("x"), 5); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("an address longer than a key: %v", err)
	}
	for _, prefix := range []string{"..", "../", "/", "/a", "a//", "a/../b", ".incoming/", "a/.", "a b", "%2e%2e/"} {
		_, err := p.Store.List(t.Context(), prefix, "", 0)
		invalid(t, "list", prefix, err)
	}
	for _, key := range []string{"-", "_", "a.b", "a..b", "A-b_c.9", "1/2/3/4", strings.Repeat("n", blob.MaxName), strings.Repeat("a/", blob.MaxKey/2-1) + "bc"} {
		put(t, p.Store, key, []byte(key))
		holds(t, p.Store, key, []byte(key))
	}
}

func invalid(t *testing.T, verb, key string, err error) {
	t.Helper()
	if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("%s %q: %v", verb, key, err)
	}
}

// testOneKeyAtOnce has several write one key while others read it: each sees
// one of the contents, whole.
func testOneKeyAtOnce(t *testing.T, p Place) {
	known := map[string]bool{}
	var writers errgroup.Group
	put(t, p.Store, "k/one", Random(0, small))
	known[SHA256(Random(0, small))] = true
	for i := range uint64(6) {
		raw := Random(i+1, int(i+1)*100<<10)
		known[SHA256(raw)] = true
		writers.Go(func() error {
			for range 3 {
				if _, err := p.Store.Put(t.Context(), "k/one", bytes.NewReader(raw), int64(len(raw))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	done := make(chan struct{})
	var readers errgroup.Group
	for range 3 {
		readers.Go(func() error {
			for {
				if err := readOneOf(t.Context(), p.Store, "k/one", known); err != nil {
					return err
				}
				select {
				case <-done:
					return nil
				default:
				}
			}
		})
	}
	err := writers.Wait()
	close(done)
	if err := errors.Join(err, readers.Wait()); err != nil {
		t.Fatal(err)
	}
	if found := list(t, p.Store, "", "", 0); len(found) != 1 {
		t.Errorf("one key is %d blobs", len(found))
	}
}

func readOneOf(ctx context.Context, s blob.Store, key string, known map[string]bool) error {
	r, size, err := s.Open(ctx, key)
	if err != nil {
		return err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if int64(len(raw)) != size || !known[SHA256(raw)] {
		return errors.New("a mixture, or a part, is read")
	}
	return nil
}

func testComesAndGoes(t *testing.T, p Place) { ComesAndGoes(t, p.Store, "a", "b", "c") }

// ComesAndGoes has blobs written and deleted at once: each is its own.
func ComesAndGoes(t *testing.T, s blob.Store, keys ...string) {
	t.Helper()
	var all errgroup.Group
	for _, key := range keys {
		all.Go(func() error {
			for range 20 {
				if _, err := s.Put(t.Context(), key, strings.NewReader(key), int64(len(key))); err != nil {
					return err
				}
				if _, err := s.Stat(t.Context(), key); err != nil {
					return err
				}
				if err := s.Delete(t.Context(), key); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if found := list(t, s, "", "", 0); len(found) != 0 {
		t.Errorf("left: %v", found)
	}
}

func testLarge(t *testing.T, p Place) {
	raw := Random(7, large)
	started := time.Now()
	put(t, p.Store, "org/large", raw)
	holds(t, p.Store, "org/large", raw)
	t.Logf("%d MiB there and back in %v", large>>20, time.Since(started).Round(time.Millisecond))
	r, err := p.Store.OpenRange(t.Context(), "org/large", medium+1, small)
	if err != nil {
		t.Fatal(err)
	}
	if got := drain(t, r); !bytes.Equal(got, raw[medium+1:][:small]) {
		t.Error("a range across parts has other bytes")
	}
}
