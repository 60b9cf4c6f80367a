package distribution

import (
	"strings"
	"testing"
)

// FuzzPaths: what a path is found to name makes up the path again, and its parts
// are not empty.
func FuzzPaths(f *testing.F) {
	for _, seed := range []string{"org/app/manifests/v1", "org/app/blobs/uploads/", "org/app/blobs/uploads", "org/app/blobs/uploads/id", "org/blobs/blobs/sha256:0", "tags/list",
		"a/tags/list", "a/tags/list/", "a/tags/list/tags/list", "//", "", "a/referrers/", "a/b/blobs/uploads/uploads/blobs/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		to, name, what, ok := find(path)
		if !ok {
			return
		}
		again := name + "/" + strings.Join(to.words, "/")
		if !to.ends {
			again += "/" + what
		}
		if name == "" && !strings.HasPrefix(path, "/") || again != path && again+"/" != path || to.ends != (what == "") {
			t.Errorf("%q is %q of %q, for %q", path, to.words, name, what)
		}
	})
}

// FuzzContentRange: where bytes begin is where the header says, and nothing of it
// runs over.
func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"0-9", "bytes 0-9/10", "bytes 5-4/*", "-", "0-", "-1-2", "9223372036854775807-9223372036854775807", "0-0"} {
		f.Add(seed, int64(10))
		f.Add(seed, int64(-1))
	}
	f.Fuzz(func(t *testing.T, header string, length int64) {
		at, size, err := begins(header, length)
		if err == nil && (at < -1 || at > maxOffset || header == "" && at != -1 || length >= 0 && size != length || header != "" && size <= 0) {
			t.Errorf("%q of %d bytes begins at %d, and is %d", header, length, at, size)
		}
	})
}
