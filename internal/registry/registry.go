// Package registry keeps the images of orgs: blobs by their digest, whose content
// is in a blob store, and the manifests and tags that make images of them, which
// are in SQL. How clients speak to it is in distribution/, the protocol of OCI
// registries.
package registry

import (
	"encoding/json"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of what clients may say.
const (
	MaxManifest  = 4 << 20 // bytes; what every registry has to take
	MaxRefs      = 20_000  // blobs and manifests that one manifest names
	MaxTags      = 100     // that one push may give
	MaxSegments  = 10_000  // requests in which one blob may come
	MaxPage      = 1000    // of lists
	MaxPlatforms = 50      // of one image, that are told
	// MaxImageSize bounds what an image may say that it has, so that sums don't run
	// over.
	MaxImageSize = 1 << 48
)

// Place is a repository: its org, and its name within that.
type Place struct {
	OrgID string
	Repo  string
}

// Blob is content of a repository.
type Blob struct {
	Digest Digest
	Size   int64
	UsedAt time.Time // when it was pushed, mounted or looked for, roughly

	// Path is the name of its content; "" where it is in segments, whose name is
	// Content.
	Path, Content string

	coming *fill // whose content comes from a mirror's upstream only now
}

// Upload is a blob that comes in several requests.
type Upload struct {
	ID string
	Place
	Size      int64
	Segments  int64  // in which it has come so far
	Algorithm string // of Sum
	Sum       []byte // the state of the hash of what has come
}

// Segment is a part of a blob's content.
type Segment struct {
	N      int64
	Offset int64
	Size   int64
	Path   string
}

// Manifest is what makes an image of blobs, or an index of manifests, or tells
// something about another manifest. Its content never changes.
type Manifest struct {
	Digest       Digest
	MediaType    string
	ArtifactType string
	Subject      Digest          // what it is about; "" for nothing
	Annotations  json.RawMessage // of one that has a subject: an object of texts; nil for none
	Content      []byte
	Size         int64
	ImageSize    int64    // with all blobs that it names, as it says; the store adds its manifests
	Platforms    []string // that it is for, as far as it says so

	Blobs     []Digest // that have to be there
	Manifests []Digest // likewise
	Elsewhere []Digest // blobs that need not be here, and stay where they are

	config Digest // of an image, the blob that tells its platform; "" for none
}

// Reason is the word of OCI's specification for an error.
type Reason string

// The words.
const (
	BlobUnknown         Reason = "BLOB_UNKNOWN"
	BlobUploadInvalid   Reason = "BLOB_UPLOAD_INVALID"
	BlobUploadUnknown   Reason = "BLOB_UPLOAD_UNKNOWN"
	DigestInvalid       Reason = "DIGEST_INVALID"
	ManifestBlobUnknown Reason = "MANIFEST_BLOB_UNKNOWN"
	ManifestInvalid     Reason = "MANIFEST_INVALID"
	ManifestUnknown     Reason = "MANIFEST_UNKNOWN"
	NameInvalid         Reason = "NAME_INVALID"
	NameUnknown         Reason = "NAME_UNKNOWN"
	SizeInvalid         Reason = "SIZE_INVALID"
	Unauthorized        Reason = "UNAUTHORIZED"
	Denied              Reason = "DENIED"
	Unsupported         Reason = "UNSUPPORTED"
	TooManyRequests     Reason = "TOOMANYREQUESTS"
)

// RefusalError is an error for which the specification has a word.
type RefusalError struct {
	Reason Reason
	Err    error
}

// Error implements error.
func (r *RefusalError) Error() string { return r.Err.Error() }

// Unwrap returns the cause.
func (r *RefusalError) Unwrap() error { return r.Err }

// Refuse makes a refusal with a code, which says what kind of failure it is.
func Refuse(reason Reason, code nimbus.Code, format string, args ...any) error {
	return &RefusalError{Reason: reason, Err: nimbus.Errorf(code, format, args...)}
}

// OutOfOrderError is the refusal of bytes that do not begin where the upload ends.
type OutOfOrderError struct{ Size int64 }

// Error implements error.
func (*OutOfOrderError) Error() string { return "the bytes do not begin where the upload ends" }

// Unwrap returns it as a refusal.
func (o *OutOfOrderError) Unwrap() error {
	return Refuse(BlobUploadInvalid, nimbus.CodeInvalid, "the upload has %d bytes, and these do not begin there", o.Size)
}
