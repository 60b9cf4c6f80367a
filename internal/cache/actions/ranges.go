package actions

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// span is a part of a content.
type span struct{ offset, n int64 }

// errUnsatisfiable is the answer to a range that is not in the content, or is none.
// A whole content instead would be taken for the part: go-actions-cache does not
// look at the status.
var errUnsatisfiable = nimbus.Errorf(nimbus.CodeInvalid, "the range is not one part of what is there")

// wanted reads which part of a content of size bytes, whose entity tag is tag, a
// request wants. part is false where it wants all of it. Azure's own spelling of
// the header goes before HTTP's.
func wanted(header http.Header, size int64, tag string) (s span, part bool, err error) {
	text := header.Get("X-Ms-Range")
	if text == "" {
		text = header.Get("Range")
		if since := header.Get("If-Range"); since != "" && since != tag {
			text = ""
		}
	}
	if text == "" {
		return span{0, size}, false, nil
	}
	s, ok := parseRange(text, size)
	if !ok {
		return span{}, false, errUnsatisfiable
	}
	return s, true, nil
}

// parseRange reads "bytes=FIRST-", "bytes=FIRST-LAST" or "bytes=-COUNT".
func parseRange(text string, size int64) (span, bool) {
	text, ok := strings.CutPrefix(text, "bytes=")
	first, last, ok2 := strings.Cut(text, "-")
	if !ok || !ok2 {
		return span{}, false
	}
	if first == "" {
		n, ok := digits(last)
		n = min(n, size)
		return span{size - n, n}, ok && n > 0
	}
	from, ok := digits(first)
	if !ok || from >= size {
		return span{}, false
	}
	if last == "" {
		return span{from, size - from}, true
	}
	to, ok := digits(last)
	if !ok || to < from {
		return span{}, false
	}
	return span{from, min(to, size-1) - from + 1}, true
}

// digits reads a number without a sign.
func digits(text string) (int64, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// plain reads a number above nothing, in the one way to write it.
func plain(text string) (int64, bool) {
	n, ok := digits(text)
	return n, ok && text[0] != '0'
}

// parseContentRange reads "bytes FIRST-LAST/*", which says where a part of an
// upload belongs. Codes: invalid.
func parseContentRange(text string) (span, error) {
	rest, ok := strings.CutPrefix(text, "bytes ")
	rest, _, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(rest, "-")
	from, ok4 := digits(first)
	to, ok5 := digits(last)
	if !ok || !ok2 || !ok3 || !ok4 || !ok5 || to < from || to-from == 1<<63-1 {
		return span{}, nimbus.Errorf(nimbus.CodeInvalid, "Content-Range is %.100q", text).WithHint("it is bytes FIRST-LAST/*")
	}
	return span{from, to - from + 1}, nil
}

func (s span) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.offset, s.offset+s.n-1, size)
}
