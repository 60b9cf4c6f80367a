package transfer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
)

// Headers by which the cache tells a host in the midst what an answer is about.
// The host takes them from the cache alone, and keeps them to itself.
const (
	// entryHeader is on an entry's content, and on the answer that an entry is
	// saved: what it tells of never changes.
	entryHeader = "Nimbus-Cache-Entry"
	// uploadHeader is on the answer that a part of an upload was taken.
	uploadHeader = "Nimbus-Cache-Upload"
)

// Entry names what is, or becomes, an entry of the cache.
type Entry struct {
	OrgID string
	ID    int64
	Size  int64 // -1 while it is not known
	// Digest is what the blocks hash to of which it is, where that is told: when it
	// is saved. "": not told.
	Digest string
}

// Digest is what blocks hash to, in order. By it a host that kept blocks as they
// passed finds out whether they are those that the cache has: one may have come to
// that by another way, or again.
type Digest struct{ sum hash.Hash }

// NewDigest is that of no block.
func NewDigest() Digest { return Digest{sha256.New()} }

// Add adds a block, of whose bytes it gets the SHA-256 in lower-case hex. An empty
// one is none.
func (d Digest) Add(size int64, sha256 string) {
	if size > 0 {
		fmt.Fprintf(d.sum, "%d %s\n", size, sha256)
	}
}

// String is the digest in lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d.sum.Sum(nil)) }

// TellEntry says that an answer is an entry's.
func TellEntry(h http.Header, e Entry) {
	h.Set(entryHeader, strings.TrimSpace(e.OrgID+" "+strconv.FormatInt(e.ID, 10)+" "+strconv.FormatInt(e.Size, 10)+" "+e.Digest))
}

// TellUpload says that an answer is about a part of an upload.
func TellUpload(h http.Header, orgID string, id int64) {
	h.Set(uploadHeader, orgID+" "+strconv.FormatInt(id, 10))
}

// TakeEntry reads what TellEntry said, and takes it out of the headers.
func TakeEntry(h http.Header) (e Entry, ok bool) {
	fields := strings.Fields(h.Get(entryHeader))
	h.Del(entryHeader)
	if len(fields) != 3 && len(fields) != 4 {
		return Entry{}, false
	}
	if e, ok = named(fields); ok {
		e.Size, ok = Digits(fields[2])
	}
	if len(fields) == 4 {
		e.Digest = fields[3]
	}
	return e, ok
}

// TakeUpload reads what TellUpload said, and takes it out of the headers.
func TakeUpload(h http.Header) (e Entry, ok bool) {
	fields := strings.Fields(h.Get(uploadHeader))
	h.Del(uploadHeader)
	if len(fields) != 2 {
		return Entry{}, false
	}
	return named(fields)
}

func named(fields []string) (e Entry, ok bool) {
	id, ok := Plain(fields[1])
	return Entry{OrgID: fields[0], ID: id, Size: -1}, ok
}
