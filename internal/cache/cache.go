// Package cache keeps what jobs saved for later ones: entries under a key and a
// version, in scopes that follow branches as GitHub's do, of many blocks whose
// content is in a blob store and whose order is in SQL. How clients speak to it
// is in sub-packages: actions/ is the protocol of GitHub's cache service.
package cache

import (
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// Bounds of what clients may say.
const (
	MaxKey     = 512 // bytes of a key
	MaxVersion = 512 // bytes of a version: clients send 64 hexadecimal digits
	MaxKeys    = 16  // keys of one look-up
	MaxBlocks  = transfer.MaxBlocks
	MaxBlock   = 512 << 20 // bytes of one block
	MaxScopes  = 8
	MaxMeta    = 1 << 10 // bytes of what a client wants to be told again
)

// Caller is what a token lets its holder do. It comes from a verified token of
// a job whose binding is proved, never from what a client says of itself.
type Caller struct {
	OrgID string // required
	Repo  string // "owner/name" in lower case, whose entries these are; "" is the org's own jobs, which have no repository
	JobID string // for the books; "" for a person's
	Write string // the scope that new entries are in, as "refs/heads/main"; "" writes nothing
	Read  []string
}

// Place is where an entry is. No two entries that can be found have the same.
type Place struct {
	OrgID, Repo, Scope, Version, Key string
}

// Entry is something that was saved whole. It never changes.
type Entry struct {
	ID int64 // positive, unique on this installation
	Place
	Size      int64
	Meta      string // what was saved with it, for its client
	CreatedAt time.Time
	UsedAt    time.Time // when it was last found, or made
	Digest    string    // of its blocks, see transfer.Digest; of one that was just committed alone
}

// Upload is an entry that is being saved. Its place is taken until it is
// committed, given up, or has not got a byte for UploadIdle.
type Upload struct {
	ID int64 // becomes the entry's
	Place
	CreatedAt time.Time
}

// Segment is a part of an entry's content: what is stored by the name Blob in its
// folder is at Offset.
type Segment struct {
	Blob   string
	Offset int64
	Size   int64
	SHA256 string // lower-case hex
}

// Codes of this package's errors, beside what each method says:
//   - conflict: the place is taken, by an entry or by an upload
//   - forbidden: the caller may not write, or not there
//   - too_large: over a bound, or over a quota; the message says which, how much
//     of it is used, and by whom
//   - not_found: no such entry or upload of the caller's
var errReadOnly = nimbus.Errorf(nimbus.CodeForbidden, "cache write denied: this job may only read")
