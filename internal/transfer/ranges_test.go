package transfer

import (
	"net/http"
	"strings"
	"testing"
)

func TestWanted(t *testing.T) {
	t.Parallel()
	const tag, size = `"7"`, 10
	for _, c := range []struct {
		header  string // "Name: value; Name: value"
		want    Span
		partial bool
		bad     bool
	}{
		{header: "", want: Span{0, 10}},
		{header: "Range: bytes=0-", want: Span{0, 10}, partial: true},
		{header: "Range: bytes=3-", want: Span{3, 7}, partial: true},
		{header: "x-ms-range: bytes=3-", want: Span{3, 7}, partial: true},
		{header: "x-ms-range: bytes=4-5; Range: bytes=1-2", want: Span{4, 2}, partial: true},
		{header: "Range: bytes=3-3", want: Span{3, 1}, partial: true},
		{header: "Range: bytes=3-9", want: Span{3, 7}, partial: true},
		{header: "Range: bytes=3-999999999999", want: Span{3, 7}, partial: true},
		{header: "Range: bytes=3-99999999999999999999", want: Span{3, 7}, partial: true},
		{header: "Range: bytes=-99999999999999999999", want: Span{0, 10}, partial: true},
		{header: "Range: bytes=-4", want: Span{6, 4}, partial: true},
		{header: "Range: bytes=-99", want: Span{0, 10}, partial: true},
		{header: `Range: bytes=3-; If-Range: "7"`, want: Span{3, 7}, partial: true},
		{header: `Range: bytes=3-; If-Range: "8"`, want: Span{0, 10}},
		{header: `x-ms-range: bytes=3-; If-Range: "8"`, want: Span{3, 7}, partial: true},
		{header: "Range: bytes=10-", bad: true},
		{header: "Range: bytes=5-4", bad: true},
		{header: "Range: bytes=-0", bad: true},
		{header: "Range: bytes=-", bad: true},
		{header: "Range: bytes=--1", bad: true},
		{header: "Range: bytes=+1-", bad: true},
		{header: "Range: bytes=1-2,4-5", bad: true},
		{header: "Range: bytes= 1-2", bad: true},
		{header: "Range: lines=1-2", bad: true},
		{header: "x-ms-range: 1-2", bad: true},
		{header: "x-ms-range: bytes=99999999999999999999-", bad: true},
	} {
		header := http.Header{}
		for line := range strings.SplitSeq(c.header, "; ") {
			name, value, _ := strings.Cut(line, ": ")
			header.Set(name, value)
		}
		got, partial, err := Wanted(header, size, tag)
		if (err != nil) != c.bad || !c.bad && (got != c.want || partial != c.partial) {
			t.Errorf("%q: %v, %v, %v", c.header, got, partial, err)
		}
	}
	if _, _, err := Wanted(http.Header{"Range": {"bytes=0-"}}, 0, tag); err == nil {
		t.Error("a part of nothing")
	}
}

func TestContentRange(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Span{
		"bytes 0-0/*":   {0, 1},
		"bytes 5-9/*":   {5, 5},
		"bytes 5-9/100": {5, 5},
	} {
		if got, err := ParseContentRange(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "bytes */10", "bytes 5-4/*", "bytes 5-/*", "bytes -5/*", "bytes 0-5", "0-5/*", "bytes=0-5/*", "bytes 0-9223372036854775807/*", "bytes -1-5/*"} {
		if got, err := ParseContentRange(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

// FuzzRange: a range that is read is of the content, whatever was written.
func FuzzRange(f *testing.F) {
	for _, text := range []string{"bytes=0-", "bytes=3-5", "bytes=-4", "bytes=1-2,4-5", "bytes=9223372036854775807-", "bytes=--", "bytes 0-5/*"} {
		f.Add(text, int64(10))
	}
	f.Fuzz(func(t *testing.T, text string, size int64) {
		size = max(size, 0)
		if s, ok := parseRange(text, size); ok && (s.Offset < 0 || s.N <= 0 || s.N > size || s.Offset > size-s.N) {
			t.Fatalf("%q of %d bytes is %v", text, size, s)
		}
		if s, err := ParseContentRange(text); err == nil && (s.Offset < 0 || s.N <= 0) {
			t.Fatalf("%q is %v", text, s)
		}
	})
}
