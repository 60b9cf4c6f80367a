// Package transfer is how contents of the cache and of the registry pass between
// a client and who keeps them, at either end of a way that may have a host in its
// midst: which part of a content is asked for, which blocks make one, and that
// nobody holds a connection who neither sends nor takes.
package transfer

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Span is a part of a content.
type Span struct{ Offset, N int64 }

// errUnsatisfiable is the answer to a range that is not in the content, or is none.
// A whole content instead would be taken for the part: go-actions-cache does not
// look at the status.
var errUnsatisfiable = nimbus.Errorf(nimbus.CodeInvalid, "the range is not one part of what is there")

// Wanted reads which part of a content of size bytes, whose entity tag is tag, a
// request wants. part is false where it wants all of it. Azure's own spelling of
// the header goes before HTTP's.
func Wanted(header http.Header, size int64, tag string) (s Span, part bool, err error) {
	text := header.Get("X-Ms-Range")
	if text == "" {
		text = header.Get("Range")
		if since := header.Get("If-Range"); since != "" && since != tag {
			text = ""
		}
	}
	if text == "" {
		return Span{0, size}, false, nil
	}
	s, ok := parseRange(text, size)
	if !ok {
		return Span{}, false, errUnsatisfiable
	}
	return s, true, nil
}

// parseRange reads "bytes=FIRST-", "bytes=FIRST-LAST" or "bytes=-COUNT".
func parseRange(text string, size int64) (Span, bool) {
	text, ok := strings.CutPrefix(text, "bytes=")
	first, last, ok2 := strings.Cut(text, "-")
	if !ok || !ok2 {
		return Span{}, false
	}
	if first == "" {
		n, ok := atMost(last, size)
		return Span{size - n, n}, ok && n > 0
	}
	from, ok := Digits(first)
	if !ok || from >= size {
		return Span{}, false
	}
	if last == "" {
		return Span{from, size - from}, true
	}
	to, ok := atMost(last, size-1)
	if !ok || to < from {
		return Span{}, false
	}
	return Span{from, to - from + 1}, true
}

// atMost reads a number that may be larger than any here, as the end of a range.
func atMost(text string, most int64) (int64, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil { // all are digits: it is too large
		return most, true
	}
	return min(n, most), true
}

// Digits reads a number without a sign.
func Digits(text string) (int64, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// Plain reads a number above nothing, in the one way to write it.
func Plain(text string) (int64, bool) {
	n, ok := Digits(text)
	return n, ok && text[0] != '0'
}

// ParseContentRange reads "bytes FIRST-LAST/*", which says where a part of an
// upload belongs. Codes: invalid.
func ParseContentRange(text string) (Span, error) {
	rest, ok := strings.CutPrefix(text, "bytes ")
	rest, _, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(rest, "-")
	from, ok4 := Digits(first)
	to, ok5 := Digits(last)
	if !ok || !ok2 || !ok3 || !ok4 || !ok5 || to < from || to-from == 1<<63-1 {
		return Span{}, nimbus.Errorf(nimbus.CodeInvalid, "Content-Range is %.100q", text).WithHint("it is bytes FIRST-LAST/*")
	}
	return Span{from, to - from + 1}, nil
}

// ContentRange is the header that says which part of size bytes it is.
func (s Span) ContentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.Offset, s.Offset+s.N-1, size)
}
