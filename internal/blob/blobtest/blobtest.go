// Package blobtest is what all places for blobs, and what stands in front of
// them, have to do alike.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Place is a store that is tried.
type Place struct {
	Store blob.Store // empty
	// Residue names what writes have left that no key shows.
	Residue func(t *testing.T) []string
}

// TestStore tries all that blob.Store promises. open gives each test a place of
// its own.
func TestStore(t *testing.T, open func(t *testing.T) Place) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, p Place)
	}{
		{"PutOpenStatDelete", testPut},
		{"Replaced", testReplaced},
		{"Empty", testEmpty},
		{"Addressed", testAddressed},
		{"TooLarge", testTooLarge},
		{"SourceFails", testSourceFails},
		{"Cancelled", testCancelled},
		{"Keys", testKeys},
		{"Missing", testMissing},
		{"Ranges", testRanges},
		{"WriterTo", testWriterTo},
		{"List", testList},
		{"ListBounds", testListBounds},
		{"ReadersGoOn", testReadersGoOn},
		{"OneKeyAtOnce", testOneKeyAtOnce},
		{"ComesAndGoes", testComesAndGoes},
		{"Large", testLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := open(t)
			test.run(t, p)
			if p.Residue != nil {
				for _, left := range p.Residue(t) {
					t.Errorf("%s is left behind", left)
				}
			}
		})
	}
}

// Random is content that no compression makes small, the same for each seed.
func Random(seed uint64, size int) []byte {
	raw := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = source.Read(raw) // never fails
	return raw
}

// SHA256 is that of a content, as blob.Info has it.
func SHA256(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// put puts a blob that has to be taken.
func put(t *testing.T, s blob.Store, key string, raw []byte) {
	t.Helper()
	info, err := s.Put(t.Context(), key, bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	if want := (blob.Info{Size: int64(len(raw)), SHA256: SHA256(raw)}); info != want {
		t.Fatalf("put %s: %+v, want %+v", key, info, want)
	}
}

// get reads a blob that has to be there.
func get(t *testing.T, s blob.Store, key string) []byte {
	t.Helper()
	r, size, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatalf("open %s: %v", key, err)
	}
	raw := make([]byte, size) // io.ReadAll would take five times as much on its way
	if _, err := io.ReadFull(r, raw); err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	if more := drain(t, r); len(more) != 0 {
		t.Fatalf("%s has %d bytes more than the %d that it is said to have", key, len(more), size)
	}
	return raw
}

// drain reads all that is left, and closes.
func drain(t *testing.T, r io.ReadCloser) []byte {
	t.Helper()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return raw
}

// holds fails the test unless a blob has that content.
func holds(t *testing.T, s blob.Store, key string, want []byte) {
	t.Helper()
	if got := get(t, s, key); !bytes.Equal(got, want) {
		t.Errorf("%s has %d other bytes than the %d that were put", key, len(got), len(want))
	}
}

// lacks fails the test if a blob can be found in any way.
func lacks(t *testing.T, s blob.Store, key string) {
	t.Helper()
	if _, err := s.Stat(t.Context(), key); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("stat %s: %v", key, err)
	}
	if r, _, err := s.Open(t.Context(), key); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("open %s: %v", key, err)
		if err == nil {
			r.Close()
		}
	}
	for _, l := range list(t, s, key, "", 0) {
		if l.Key == key {
			t.Errorf("%s is listed", key)
		}
	}
}

func list(t *testing.T, s blob.Store, prefix, after string, most int) []blob.Listed {
	t.Helper()
	found, err := s.List(t.Context(), prefix, after, most)
	if err != nil {
		t.Fatalf("list %q after %q: %v", prefix, after, err)
	}
	return found
}

// cancelAfter is a source that ends its own context once so much has been read
// of it, and goes on.
type cancelAfter struct {
	r      io.Reader
	left   int
	cancel context.CancelFunc
}

func (c *cancelAfter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left -= n; c.left <= 0 {
		c.cancel()
	}
	return n, err
}
