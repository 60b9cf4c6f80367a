package cache_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache"
)

// TestGoReadsParts: the client does not look at the status of an answer; one that
// is more than the part would be wrong bytes and no error.
func TestGoReadsParts(t *testing.T) {
	program := buildGoClient(t)
	for _, v1 := range []bool{false, true} {
		cl := goClient{program, v1}
		t.Run(fmt.Sprintf("v1=%t", v1), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, cache.Limits{})
			for _, size := range []int64{1000, 40*MiB + 7} { // one block, and many
				file, _ := w.file(size)
				whole, err := os.ReadFile(file)
				w.must(err)
				key := "size-" + strconv.FormatInt(size, 10)
				w.saves(cl, job(), key, file)
				for _, offset := range []int64{1, size / 2, size - 1, min(MiB, size-1), min(33*MiB+5, size-1)} {
					into := filepath.Join(t.TempDir(), "part")
					if _, log, code := cl.run(t.Context(), w, job(), "part", into, strconv.FormatInt(offset, 10), key); code != 0 {
						t.Fatalf("from %d on: exit code %d, %s", offset, code, log)
					}
					part, err := os.ReadFile(into)
					w.must(err)
					if !bytes.Equal(part, whole[offset:]) {
						t.Errorf("%d of %s: %d other bytes", offset, short(size), len(part))
					}
				}
			}
		})
	}
}

// TestGoCountsItsIndex: BuildKit's index is a key with a number, of which the
// newest is not the last by name once there are ten.
func TestGoCountsItsIndex(t *testing.T) {
	program := buildGoClient(t)
	for _, v1 := range []bool{false, true} {
		cl := goClient{program, v1}
		t.Run(fmt.Sprintf("v1=%t", v1), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, cache.Limits{})
			for n := 1; n <= 12; n++ {
				file, hash := w.file(100)
				if _, log, code := cl.run(t.Context(), w, job(), "index", "index-main-1-abcdef01", file); code != 0 {
					t.Fatalf("the %d. time: exit code %d, %s", n, code, log)
				}
				w.restores(cl, job(), fmt.Sprintf("index-main-1-abcdef01#%d", n), hash, "index-main-1-abcdef01#")
			}
		})
	}
}
