package blobtest

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

func testMissing(t *testing.T, p Place) {
	put(t, p.Store, "folder/blob", []byte("x"))
	for _, key := range []string{"nothing", "folder", "folder/nothing", "folder/blob/below"} {
		lacks(t, p.Store, key)
		if _, err := p.Store.OpenRange(t.Context(), key, 0, -1); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Errorf("open a range of %s: %v", key, err)
		}
		if _, err := p.Store.OpenRange(t.Context(), key, 0, 0); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Errorf("open nothing of %s: %v", key, err)
		}
		if err := p.Store.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	holds(t, p.Store, "folder/blob", []byte("x"))
}

func testRanges(t *testing.T, p Place) {
	raw := Random(1, small)
	put(t, p.Store, "a", raw)
	put(t, p.Store, "empty", nil)
	const size = int64(small)
	for _, at := range []struct{ offset, n, want int64 }{
		{0, -1, size}, {0, size, size}, {0, 1, 1}, {0, 0, 0}, {0, size + 1, size}, {0, 1 << 62, size}, {0, -7, size},
		{1, -1, size - 1}, {1, 1, 1}, {100, 50, 50}, {1, size - 1, size - 1}, {1, size, size - 1}, {1, 1<<63 - 1, size - 1},
		{size - 1, -1, 1}, {size - 1, 1, 1}, {size - 1, 2, 1}, {size - 1, 0, 0},
		{size, -1, 0}, {size, 0, 0}, {size, 1, 0},
	} {
		r, err := p.Store.OpenRange(t.Context(), "a", at.offset, at.n)
		if err != nil {
			t.Errorf("%d bytes from %d on: %v", at.n, at.offset, err)
			continue
		}
		if sized, ok := r.(blob.Sized); !ok {
			t.Errorf("%d bytes from %d on do not know of how many", at.n, at.offset)
		} else if has, known := sized.BlobSize(); !known || has != size {
			t.Errorf("%d bytes from %d on say that they are of %d", at.n, at.offset, has)
		}
		if got := drain(t, r); !bytes.Equal(got, raw[at.offset:][:at.want]) {
			t.Errorf("%d bytes from %d on: %d bytes, want %d", at.n, at.offset, len(got), at.want)
		}
	}
	for _, n := range []int64{-1, 0, 1} {
		for _, offset := range []int64{-1, size + 1, 1 << 62, -1 << 63} {
			_, err := p.Store.OpenRange(t.Context(), "a", offset, n)
			invalid(t, fmt.Sprintf("%d bytes from %d on of", n, offset), "a", err)
		}
		_, err := p.Store.OpenRange(t.Context(), "empty", 1, n)
		invalid(t, fmt.Sprintf("%d bytes from 1 on of", n), "empty", err)
		r, err := p.Store.OpenRange(t.Context(), "empty", 0, n)
		if err != nil {
			t.Fatal(err)
		}
		if got := drain(t, r); len(got) != 0 {
			t.Errorf("%d bytes of none", len(got))
		}
	}
}

// testWriterTo: who copies gets the same, however the copy is made.
func testWriterTo(t *testing.T, p Place) {
	raw := Random(1, small)
	put(t, p.Store, "a", raw)
	r, err := p.Store.OpenRange(t.Context(), "a", 10, 500)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var first [3]byte
	if _, err := io.ReadFull(r, first[:]); err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	if n, err := io.Copy(&rest, r); err != nil || n != 497 {
		t.Fatal(n, err)
	}
	if !bytes.Equal(append(first[:], rest.Bytes()...), raw[10:510]) {
		t.Error("a copy after a read has other bytes")
	}
}

func testList(t *testing.T, p Place) {
	before := time.Now()
	keys := []string{
		"a", "b-1", "b.1", "b/1", "b/1-", "b/10", "b/2/x", "b/2/y", "b/3", "b0", "b1/z", "bb/1", "c/d/e/f", "d-/x", "d/x", "d0",
	}
	for i, key := range keys {
		put(t, p.Store, key, Random(0, i))
	}
	for _, prefix := range []string{"", "a", "b", "b/", "b/1", "b/2", "b/2/", "b/2/x", "b/2/xx", "c/d/e", "d", "nothing", "b/nothing/", "zz"} {
		want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return len(k) < len(prefix) || k[:len(prefix)] != prefix })
		for _, most := range []int{0, 1, 2, 3, 5, len(keys)} {
			if diff := cmp.Diff(want, pages(t, p.Store, prefix, most)); diff != "" {
				t.Errorf("%q by %d: %s", prefix, most, diff)
			}
		}
	}
	for _, after := range []string{"", "a", "aa", "b", "b-", "b/", "b/1", "b/2", "b/2/", "b/2/x", "b/2/z", "b/9", "b0", "c/d", "c/d/e/f", "d0", "zz"} {
		want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k <= after })
		if diff := cmp.Diff(want, names(list(t, p.Store, "", after, 0))); diff != "" {
			t.Errorf("after %q: %s", after, diff)
		}
	}
	for i, l := range list(t, p.Store, "", "", 0) {
		// Some places tell whole seconds.
		if l.Size != int64(i) || l.ModifiedAt.Before(before.Truncate(time.Second)) || l.ModifiedAt.After(time.Now().Add(time.Second)) {
			t.Errorf("%+v, want %d bytes of now", l, i)
		}
	}
}

// pages lists all by pages of most.
func pages(t *testing.T, s blob.Store, prefix string, most int) []string {
	t.Helper()
	all := []string{}
	for after := ""; ; {
		page := names(list(t, s, prefix, after, most))
		all = append(all, page...)
		if most > 0 && len(page) > most {
			t.Errorf("a page of %d has %d", most, len(page))
		}
		if len(page) == 0 || len(page) < most || most == 0 {
			return all
		}
		after = page[len(page)-1]
	}
}

func names(found []blob.Listed) []string {
	names := []string{}
	for _, l := range found {
		names = append(names, l.Key)
	}
	return names
}

func testListBounds(t *testing.T, p Place) {
	const n = blob.MaxList + 3
	var puts errgroup.Group
	puts.SetLimit(8)
	for i := range n {
		puts.Go(func() error {
			_, err := p.Store.Put(t.Context(), fmt.Sprintf("many/%06d", i), bytes.NewReader(nil), 0)
			return err
		})
	}
	if err := puts.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, most := range []int{0, -1, n, 1 << 30} {
		if found := list(t, p.Store, "many/", "", most); len(found) != blob.MaxList || found[0].Key != "many/000000" {
			t.Errorf("most %d: %d blobs", most, len(found))
		}
	}
	if found := names(list(t, p.Store, "", "many/000999", 0)); !slices.Equal(found, []string{"many/001000", "many/001001", "many/001002"}) {
		t.Errorf("the rest is %v", found)
	}
}

// testReadersGoOn: what was opened is read to its end, whatever becomes of the
// blob.
func testReadersGoOn(t *testing.T, p Place) {
	raw := Random(1, medium)
	for _, end := range []func() error{
		func() error {
			_, err := p.Store.Put(t.Context(), "a/b", bytes.NewReader([]byte("other")), 10)
			return err
		},
		func() error { return p.Store.Delete(t.Context(), "a/b") },
	} {
		put(t, p.Store, "a/b", raw)
		r, size, err := p.Store.Open(t.Context(), "a/b")
		if err != nil || size != medium {
			t.Fatal(size, err)
		}
		first := make([]byte, small)
		if _, err := io.ReadFull(r, first); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if rest := drain(t, r); !bytes.Equal(first, raw[:small]) || !bytes.Equal(rest, raw[small:]) {
			t.Errorf("the reader got %d other bytes", small+len(rest))
		}
	}
	lacks(t, p.Store, "a/b")
}
