package blob

import (
	"io/fs"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// CheckKey refuses what is no key (code invalid): what would not be a plain path
// inside a folder, on any file system, and in any URL.
func CheckKey(key string) error {
	if key == "." || !fs.ValidPath(key) || !plain(key) {
		return nimbus.Errorf(nimbus.CodeInvalid, "%.80q is no blob key", key)
	}
	return nil
}

// CheckPrefix refuses what no key begins with (code invalid). It may end in the
// middle of a name; "" is the beginning of all.
func CheckPrefix(prefix string) error {
	if prefix != "" && (!fs.ValidPath(strings.TrimSuffix(prefix, "/")) || prefix == "." || !plain(prefix)) {
		return nimbus.Errorf(nimbus.CodeInvalid, "no blob key begins with %.80q", prefix)
	}
	return nil
}

// CheckAddressed refuses what can't be the prefix of content by its SHA-256 (code
// invalid).
func CheckAddressed(prefix string) error {
	if len(prefix) > MaxKey-addressBytes {
		return nimbus.Errorf(nimbus.CodeInvalid, "%.80q leaves no room for an address", prefix)
	}
	return CheckKey(prefix)
}

// addressBytes is what an address adds to a prefix: a slash and a SHA-256.
const addressBytes = 1 + 64

// CheckList checks what List is asked, and returns it within bounds.
func CheckList(prefix, after string, most int) (string, string, int, error) {
	if err := CheckPrefix(prefix); err != nil {
		return "", "", 0, err
	}
	if err := CheckPrefix(after); err != nil {
		return "", "", 0, err
	}
	if most <= 0 || most > MaxList {
		most = MaxList
	}
	return prefix, after, most, nil
}

// plain tells whether a path is within the bounds, has no hidden name in it, and
// no letter that needs quoting anywhere.
func plain(key string) bool {
	for name := range strings.SplitSeq(key, "/") {
		if len(name) > MaxName || strings.HasPrefix(name, ".") {
			return false
		}
	}
	return len(key) <= MaxKey && !strings.ContainsFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/", r)
	})
}

// CheckRange refuses a range that begins outside of a blob of that size (code
// invalid), and returns how many bytes it has.
func CheckRange(size, offset, n int64) (int64, error) {
	if offset < 0 || offset > size {
		return 0, nimbus.Errorf(nimbus.CodeInvalid, "offset %d is outside of the blob's %d bytes", offset, size)
	}
	if left := size - offset; n < 0 || n > left {
		return left, nil
	}
	return n, nil
}

// NotFound is the error of a blob that isn't there. It tells a key's last name
// alone: what comes before is nobody's business but ours.
func NotFound(key string) error {
	return nimbus.Errorf(nimbus.CodeNotFound, "no blob %q", key[strings.LastIndexByte(key, '/')+1:])
}
