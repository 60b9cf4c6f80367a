// Package filename makes names of files and folders of the names of images,
// which may hold slashes and be long.
package filename

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
)

// maxBytes leaves room for a prefix and a suffix below the 255 bytes that file
// systems allow.
const maxBytes = 200

// Of is the file's name for a name.
func Of(name string) string { return Shorten(url.PathEscape(name)) }

// Shorten keeps a file's name to what file systems allow; two that differ still
// do.
func Shorten(name string) string {
	if len(name) <= maxBytes {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:maxBytes-2*len(sum)-1] + "-" + hex.EncodeToString(sum[:])
}
