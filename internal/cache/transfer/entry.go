package transfer

import (
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
}

// TellEntry says that an answer is an entry's.
func TellEntry(h http.Header, e Entry) {
	h.Set(entryHeader, e.OrgID+" "+strconv.FormatInt(e.ID, 10)+" "+strconv.FormatInt(e.Size, 10))
}

// TellUpload says that an answer is about a part of an upload.
func TellUpload(h http.Header, orgID string, id int64) {
	h.Set(uploadHeader, orgID+" "+strconv.FormatInt(id, 10))
}

// TakeEntry reads what TellEntry said, and takes it out of the headers.
func TakeEntry(h http.Header) (e Entry, ok bool) {
	fields := strings.Fields(h.Get(entryHeader))
	h.Del(entryHeader)
	if len(fields) != 3 {
		return Entry{}, false
	}
	if e, ok = named(fields); ok {
		e.Size, ok = Digits(fields[2])
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
