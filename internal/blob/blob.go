// Package blob stores content by key. Sub-packages are the places: a folder
// now, S3 later; all behave alike.
package blob

import (
	"context"
	"io"
)

// Info is what is known of a blob.
type Info struct {
	Size   int64
	SHA256 string // of the content, lower-case hex
}

// Store is a place for blobs. Keys are slash-separated paths of letters,
// digits, ".", "_" and "-"; others are refused (code invalid). Safe for
// concurrent use.
type Store interface {
	// Put stores what r holds and returns once it is on disk. It is never seen
	// half-written. More than maxBytes is refused (code too_large), and leaves
	// nothing. A blob that is there is replaced.
	Put(ctx context.Context, key string, r io.Reader, maxBytes int64) (Info, error)
	// PutAddressed stores what r holds under prefix + "/" + its SHA-256, and
	// returns that. Content that is there already is left as it is.
	PutAddressed(ctx context.Context, prefix string, r io.Reader, maxBytes int64) (sha256 string, err error)
	// Open opens a blob. Codes: not_found.
	Open(ctx context.Context, key string) (io.ReadCloser, int64, error)
	// Stat tells the size of a blob. Codes: not_found.
	Stat(ctx context.Context, key string) (int64, error)
	// Delete removes a blob; one that isn't there is fine.
	Delete(ctx context.Context, key string) error
}
