package actions

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
		want    span
		partial bool
		bad     bool
	}{
		{header: "", want: span{0, 10}},
		{header: "Range: bytes=0-", want: span{0, 10}, partial: true},
		{header: "Range: bytes=3-", want: span{3, 7}, partial: true},
		{header: "x-ms-range: bytes=3-", want: span{3, 7}, partial: true},
		{header: "x-ms-range: bytes=4-5; Range: bytes=1-2", want: span{4, 2}, partial: true},
		{header: "Range: bytes=3-3", want: span{3, 1}, partial: true},
		{header: "Range: bytes=3-9", want: span{3, 7}, partial: true},
		{header: "Range: bytes=3-999999999999", want: span{3, 7}, partial: true},
		{header: "Range: bytes=-4", want: span{6, 4}, partial: true},
		{header: "Range: bytes=-99", want: span{0, 10}, partial: true},
		{header: `Range: bytes=3-; If-Range: "7"`, want: span{3, 7}, partial: true},
		{header: `Range: bytes=3-; If-Range: "8"`, want: span{0, 10}},
		{header: `x-ms-range: bytes=3-; If-Range: "8"`, want: span{3, 7}, partial: true},
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
		got, partial, err := wanted(header, size, tag)
		if (err != nil) != c.bad || !c.bad && (got != c.want || partial != c.partial) {
			t.Errorf("%q: %v, %v, %v", c.header, got, partial, err)
		}
	}
	if _, _, err := wanted(http.Header{"Range": {"bytes=0-"}}, 0, tag); err == nil {
		t.Error("a part of nothing")
	}
}

func TestContentRange(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]span{
		"bytes 0-0/*":   {0, 1},
		"bytes 5-9/*":   {5, 5},
		"bytes 5-9/100": {5, 5},
	} {
		if got, err := parseContentRange(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "bytes */10", "bytes 5-4/*", "bytes 5-/*", "bytes -5/*", "bytes 0-5", "0-5/*", "bytes=0-5/*", "bytes 0-9223372036854775807/*", "bytes -1-5/*"} {
		if got, err := parseContentRange(text); err == nil {
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
		if s, ok := parseRange(text, size); ok && (s.offset < 0 || s.n <= 0 || s.n > size || s.offset > size-s.n) {
			t.Fatalf("%q of %d bytes is %v", text, size, s)
		}
		if s, err := parseContentRange(text); err == nil && (s.offset < 0 || s.n <= 0) {
			t.Fatalf("%q is %v", text, s)
		}
	})
}
