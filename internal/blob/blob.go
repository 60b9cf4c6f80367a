// Package blob stores content by key. Sub-packages are the places: a folder
// (fs), an S3 bucket (s3), memory for tests (mem); all behave alike, as the suite
// in blobtest says. Others stand in front of any of them: see Wrapper.
package blob

import (
	"context"
	"io"
	"time"
)

// Info is what is known of a blob that was put.
type Info struct {
	Size   int64
	SHA256 string // of the content, lower-case hex; "" of a source that is Unhashed
}

// Listed is what List tells of a blob.
type Listed struct {
	Key        string
	Size       int64
	ModifiedAt time.Time // by the clock of the place
}

// Bounds of what callers may say.
const (
	MaxKey  = 512  // bytes of a key
	MaxName = 200  // bytes between two slashes: a file name that every file system takes
	MaxList = 1000 // blobs of one List
)

// Store is a place for blobs. Keys are slash-separated paths of letters,
// digits, ".", "_" and "-"; others are refused (code invalid). No key may be the
// folder of another: places differ in whether they take it. Safe for concurrent
// use, but one folder is one process's: only a bucket may be shared.
//
// A blob is never seen half-written, and a Put that fails, for whatever reason,
// leaves what was there. What a crash leaves of it nobody can open: the next Open
// of a folder, or a Sweeper, removes it. Who reads a blob goes on reading what
// they opened while it is replaced or deleted.
//
// A place that does not answer is code unavailable.
type Store interface {
	// Put stores what r holds and returns once it is on disk. More than maxBytes
	// is refused (code too_large). A blob that is there is replaced; of two that
	// are put at once, either one is there after. It gives up once ctx ends and r
	// returns.
	Put(ctx context.Context, key string, r io.Reader, maxBytes int64) (Info, error)
	// PutAddressed stores what r holds under prefix + "/" + its SHA-256, and
	// returns that. Content that is there already stays the same, and is modified
	// now: who sweeps by age spares it.
	PutAddressed(ctx context.Context, prefix string, r io.Reader, maxBytes int64) (sha256 string, err error)
	// Open opens a blob, and tells its size. ctx must live as long as the reader.
	// Codes: not_found.
	Open(ctx context.Context, key string) (io.ReadCloser, int64, error)
	// OpenRange opens n bytes of a blob from offset on, or as many as there are;
	// n < 0 is all to the end. On disk the reader is an io.WriterTo whose copy to
	// an HTTP response, or another socket, is made by the kernel. It is a Sized.
	// Codes: not_found; invalid where offset is negative or behind the end.
	OpenRange(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error)
	// Stat tells the size of a blob. Codes: not_found.
	Stat(ctx context.Context, key string) (int64, error)
	// List tells of the blobs whose keys begin with prefix and come behind after,
	// in the order of their keys (by bytes), up to most of them: MaxList when that
	// is less, or most isn't positive. Fewer than that means that these were all.
	List(ctx context.Context, prefix, after string, most int) ([]Listed, error)
	// Delete removes a blob; one that isn't there is fine.
	Delete(ctx context.Context, key string) error
}

// Sized is what reads a part of a blob, and knows how large all of it is, there
// where it lies.
type Sized interface {
	// BlobSize is that; ok is false where the place has not said so.
	BlobSize() (size int64, ok bool)
}

// Sweeper is a Store that has to be swept now and then, by one replica.
type Sweeper interface {
	// Sweep removes what writes have left that ended long ago without a word.
	Sweep(ctx context.Context) error
}

// Presigner is a Store that others may read directly, by a link that expires.
type Presigner interface {
	// PresignGet makes a link that reads a blob. Whether it is there is not
	// looked at.
	PresignGet(ctx context.Context, key string, expires time.Duration) (string, error)
}

// Wrapper is a Store in front of another. What is optional is asked of through
// As, so that no wrapper hides it by forgetting it.
type Wrapper interface {
	Store
	// Unwrap returns the store behind.
	Unwrap() Store
}

// As finds an optional ability, such as Presigner, of a store or of what is
// behind it.
func As[T any](s Store) (ability T, ok bool) {
	for {
		if ability, ok = s.(T); ok {
			return ability, true
		}
		w, wraps := s.(Wrapper)
		if !wraps {
			return ability, false
		}
		s = w.Unwrap()
	}
}
